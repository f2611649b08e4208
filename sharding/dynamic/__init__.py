"""Unbounded ids come and go, and dynamic tables say which of them have a row.

- `distinct.py`: a batch's distinct ids, by buckets
- `dynamic_tables.py`: how a step's raw ids become rows, over all ranks
- `id_map.py`: which row each id has: admission, eviction and counts
- `set_cache.py`: where an id may be, where it is, and which id makes room for it
- `worth.py`: what a row is worth, by which policy
"""
