"""Unbounded ids: which of them have a row.

- `dynamic_tables.py`: Dynamic tables in a step: raw ids of all ranks' batches -> rows; rows that another id gets
- `id_map.py`: Which row each raw id of a dynamic table has: admission, eviction and counts of any 64-bit ids
- `set_cache.py`: A set-associative cache of ids: where an id may be, where it is, and which id makes room for it
"""
