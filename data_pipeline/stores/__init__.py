"""Object stores (s3://, gs://, hdfs://) are spoken to through pyarrow, with patience.

- `filesystems.py`: the file system of a URI, with the endpoint and the time-outs that it is spoken to by
- `location.py`: a path on a disk or in a store, with those of pathlib's methods that checkpoints need
- `mirrors.py`: where a machine has its part of what is kept at a URI
- `retries.py`: what failed over a network is tried again, more and more seldom
"""
