"""Row ranges of Parquet files, in a pure order, as arrays.

- `blocks.py`: A block: some rows of a data set as a few NumPy arrays, cheap to slice, to permute and to join
- `collate.py`: Arrow record batches -> blocks -> batches, without Python per row
- `files.py`: Data files: finding them by path, folder, glob or URI, and opening them in the way that suits what is
- `order.py`: Which rows come when: arithmetic on row-group sizes, without I/O, state or a generator that could be lost
- `parquet.py`: Parquet files as one numbered list of rows: what is there (`Index`), and record batches of any range
"""
