"""A layer is one idea in one file, with its paper and equation.

- `activation_unit.py`: DIN's activation unit says how much each past event matters for the item in question
- `activations.py`: Activations are made by the names that run files use
- `affine.py`: The affine part belongs to no table: it is the global bias and the weights of dense features
- `cancelled.py`: A cancelled parameter changes nothing of what is learned: what follows takes it away again
- `causal.py`: Causal blocks let each event of a sequence attend to itself and to those before it
- `contrast.py`: Contrasts are losses that tell a row's own item from others by their scores
- `cross.py`: Cross layers make explicit feature crosses of bounded degree, without ever forming the matrix x_0 x_l^T
- `field_aware.py`: Field-aware factors: a field has some of its own for each field that it meets (Juan et al., 2016)
- `fm.py`: An FM's terms are read off fields whose rows hold first-order weight and factors side by side
- `frozen_copy.py`: A frozen copy of a module is a network that no optimizer moves: a target network
- `glorot.py`: Glorot's initialisation (Glorot & Bengio, AISTATS 2010) is for papers that start from it
- `jagged_argmax.py`: A jagged argmax finds the position of each row's largest score
- `jagged_product.py`: A jagged product multiplies each position of jagged sequences with a vector of its row
- `jagged_softmax.py`: A jagged softmax runs over the positions of each row of a jagged batch
- `jagged_sum.py`: A jagged sum adds up the weighted positions of each row of a jagged batch
- `logit.py`: The logit is the last layer of a tower
- `mlp.py`: A multi-layer perceptron is the deep part of most towers
- `moments.py`: Batch normalisation goes by the moments of live rows, over all ranks
- `packing.py`: Packing puts the positions of jagged sequences in order of their step, so that each step is one slice
- `padded.py`: Padded sequences are summed and compared over all L slots of a row, padding left out by a mask
- `pair_attention.py`: Attention over pairs of fields says which crossings matter
- `pieces.py`: Pieces are parts of a long array that fit a CPU's cache, so that what lies between need never be whole
- `product.py`: Products of fields are the signals of product networks (Qu et al., ICDM 2016, section III)
- `recurrent.py`: Gated recurrent units run over packed sequences, plain or driven by attention
- `residual.py`: A residual unit adds to a vector what two linear layers make of it
- `self_attention.py`: Self-attention lets a row's fields attend to each other, in several heads
- `transformer.py`: Transformer layers run over jagged sequences
"""
