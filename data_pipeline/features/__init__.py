"""A column has a meaning, and its values become ids and numbers.

- `arrow_values.py`: Arrow arrays as readers see them: types, NumPy views, what is missing, where a value came from
- `combinations.py`: combinations of several lists: which element of each, for all rows at once
- `crosses.py`: crosses that a run declares: features whose ids are combinations of other features' ids
- `dense_transforms.py`: what a feature's `transforms` may declare: how its numbers change
- `feature_kinds.py`: kinds of features: an id, a list of ids, a sequence, numbers, and crosses of features
- `hashing.py`: XXH64 of Arrow strings and integers, vectorised in NumPy
- `id_transforms.py`: what a feature's `ids` may declare: how values become table rows
- `ids.py`: values of a column become rows of an embedding table, as its `ids` declares
- `ragged.py`: where each row's elements lie among the flat values of a list array
- `same_rows.py`: whether ids of one run mean the rows of another run's table
- `schema.py`: what a row is: features, labels, weight and group, and the columns that they read
- `transforms.py`: record batches become NumPy columns of table rows and numbers, as the schema declares
- `transitions.py`: whether features at several places of a logged transition go together
- `vocabulary.py`: a vocabulary file opened for lookups
"""
