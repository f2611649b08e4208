"""Kernels of layers compute what lies between a tower's matrix products, in few passes over memory.

- `attention.cpp`, `attention.h`: attention over pairs of fields
- `attention.py`: this, on tensors
- `build.py`: the library's sources
- `chunks.h`: arrays gone through by chunks of rows
- `columns.h`: an array of columns
- `columns.py`: this, of a tensor
- `dice.cpp`, `dice.h`: Dice, and sums of columns
- `dice.py`: these, on tensors
- `dice_terms.h`: what Dice makes of some columns, and its gradients
- `exports.cpp`, `forms.h`: the library's entry points, and what it has for each set of instructions
- `fm.cpp`, `fm.h`: an FM's terms beside an MLP's columns
- `fm.py`: these, on tensors
- `jagged.cpp`, `jagged.h`: sums of rows' positions
- `jagged.py`: these, on tensors
- `lanes.h`: sixteen numbers at a time, and functions of them
- `library.py`: the library, loaded, and what it is for
- `logit.cpp`: a product with a vector
- `logit.py`: this, on tensors
- `position_layer.cpp`, `position_layer.h`: a linear layer over positions of rows, of pairs or of Dice
- `position_layer.py`: this, on tensors
- `products.h`: products of matrices that stay in a core's first caches
- `recurrent.cpp`, `recurrent.h`: a GRU over packed sequences
- `recurrent.py`: this, on tensors
- `row_attention.cpp`, `row_attention.h`: attention within rows
- `row_attention.py`: this, on tensors
"""
