"""Rows lie on disk in files that load under any plan.

- `copy_columns.py`: how tables start from columns of another run's tables
- `entries.py`: what a manifest says of each file of tables and id maps, checked
- `frozen.py`: how a checkpoint is read into tables that are only read
- `id_maps.py`: how id maps are written, read and put together
- `replaced_rows.py`: how a saved table is copied with some of its rows replaced
- `saved_tables.py`: a checkpoint's tables, read front to back whatever plan wrote them
- `shard_files.py`: one safetensors file, written from live memory and read back in checked chunks
- `tables.py`: how a rank's shards are written, and filled from any plan's files
- `unwritten_file.py`: a file that is about to be written, from live memory or from a copy of bounded size
"""
