"""Row ranges of Parquet files are read as arrays, in an order computed from data and seed alone.

- `blocks.py`: some rows of a data set as a few NumPy arrays
- `collate.py`: record batches become blocks, and blocks become batches
- `files.py`: data files found by path, folder, glob or URI, and opened
- `labels.py`: whether rows have labels at all, and which values these take
- `order.py`: which rows come when
- `parquet.py`: Parquet files as one numbered list of rows, any range of which can be read
"""
