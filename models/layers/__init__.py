"""Layers: one idea a file, with its paper and equation.

- `activation_unit.py`: DIN's activation unit: how much each past event matters for the item in question
- `activations.py`: Activations by the names that run files use
- `affine.py`: The linear part that belongs to no table: global bias and weights of dense features
- `cross.py`: Cross layers: explicit feature crosses of bounded degree, without ever forming the matrix x_0 x_l^T
- `fm.py`: Factorization machine over fields whose rows hold first-order weight and factors side by side
- `glorot.py`: Glorot's initialisation (Glorot & Bengio, AISTATS 2010), for papers that start from it
- `jagged_product.py`: Dot products of the positions of jagged sequences with a vector of their row
- `jagged_softmax.py`: Softmax over the positions of each row of a jagged batch
- `jagged_sum.py`: Weighted sums over the positions of each row of a jagged batch
- `logit.py`: The last layer of a tower
- `mlp.py`: Multi-layer perceptron: the deep part of most towers
- `moments.py`: Batch normalisation by the moments of live rows, over all ranks
- `packing.py`: Positions of jagged sequences regrouped by time step, so that step t of a recurrent layer is one
- `pair_attention.py`: Attention over pairs of fields: which crossings matter
- `pieces.py`: Parts of a long array that fit a CPU's cache, for formulas whose intermediate arrays need never be whole
- `product.py`: Product signals between fields (Qu et al., ICDM 2016, section III)
- `recurrent.py`: Gated recurrent units over packed sequences, plain and driven by attention
- `residual.py`: Residual units over plain vectors
- `self_attention.py`: Multi-head self-attention over a row's fields
- `transformer.py`: Transformer layers over jagged sequences
"""
