"""Batches are made ahead of the step that takes them.

- `block_channel.py`: rows travel between two processes
- `footprint.py`: how much memory decoding takes, and so what is decoded at once
- `lanes.py`: one rank's lanes of one epoch: ranges of rows become blocks, and blocks shuffled windows
- `loader.py`: Parquet becomes one rank's batches
- `prefetch.py`: an iterator that runs ahead in a background thread
- `reader_pool.py`: processes that decode for a rank
- `reader_process.py`: what one of them does
"""
