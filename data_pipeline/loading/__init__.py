"""Batches, made ahead of the step that takes them.

- `footprint.py`: How much memory decoding takes: what decides how many lanes fit, and what is decoded at once
- `lanes.py`: One rank's lanes of one epoch: row ranges -> blocks -> shuffled windows
- `loader.py`: Parquet -> one rank's batches: order, decoding, collation and a thread that runs ahead
- `prefetch.py`: An iterator that runs ahead in a background thread
"""
