"""What a column means, and how its values become ids and numbers.

- `arrow_values.py`: What readers know of Arrow arrays: their types, NumPy views of them, what is missing, where a
- `crosses.py`: Cross-product transformations that a run declares: features whose ids are combinations of other
- `hashing.py`: XXH64 of Arrow strings and integers, vectorised in NumPy
- `id_transforms.py`: How a column's values become table rows: what a feature's `ids` declares
- `ids.py`: Values of a column (strings, integers, numbers) -> rows of an embedding table, as a schema's `ids` declares
- `ragged.py`: Rows of an Arrow list array: where each row's elements lie among the flat values
- `same_rows.py`: Whether ids of one run mean the rows of another run's table: by how they are made, not by how many
- `schema.py`: What a row is: its features, labels, sample weight and group, and how each is read from Parquet columns
- `transforms.py`: Arrow record batches -> NumPy columns of table rows and numbers, as the schema declares; no Python
- `vocabulary.py`: A vocabulary file opened for lookups: value -> table row
"""
