"""Sharding says where table rows live: it plans, looks up, updates and saves them, and knows no particular model.

- `checkpoints/`: rows on disk
- `distribution/`: a plan applied to a step
- `dynamic/`: unbounded ids: which of them have a row
- `lookup/`: from a batch to the tower's inputs
- `planning/`: where rows go, and what that costs
- `tables/`: live rows and their first values
- `updates/`: how rows change
"""
