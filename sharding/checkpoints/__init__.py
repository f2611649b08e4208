"""Rows on disk.

- `copy_columns.py`: Tables that start from another run's rows: a range of their columns, scaled, under any plan of
- `frozen.py`: Checkpoints read into tables that are only read: no optimizer state, and rows quantised as they stream
- `id_maps.py`: Id maps to and from files: the rows of each rank's buckets as int64 columns, beside the files of the
- `replaced_rows.py`: A saved table copied into another checkpoint, with some of its rows replaced
- `saved_tables.py`: Tables as a checkpoint holds them, whatever the plan and world size that wrote them, read front
- `shard_files.py`: One safetensors file per shard: streamed from live memory, and read back in checked chunks
- `tables.py`: Tables to and from files: one safetensors file per shard, streamed from and into live memory
"""
