"""Row ranges of Parquet files are read as arrays, in an order computed from data and seed alone.

- `blocks.py`: some rows of a data set as a few NumPy arrays
- `collate.py`: record batches become blocks, and blocks become batches
- `column_chunks.py`: what a footer says of its columns, where it does not contradict itself
- `column_types.py`: how files may differ in their columns
- `files.py`: one data file, opened, and noticed when it changes
- `finding.py`: data files found by path, folder, glob or URI
- `gaps.py`: rows that cannot be read any more, left out of what is read
- `index.py`: Parquet files as one numbered list of rows, known by their footers
- `lake_tables.py`: folders of Delta Lake, Iceberg and Hudi, which are not read
- `keys.py`: the ids of blocks joined to the keys of a batch
- `labels.py`: whether rows have labels at all, and which values these take
- `order.py`: which rows come when
- `parquet.py`: any range of an index's rows, read in chunks
- `time_order.py`: rows checked to lie in order of time
"""
