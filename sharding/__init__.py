"""Sharding says where table rows live: it plans, looks up, updates and saves them, and knows no particular model.

- `checkpoints/`: rows on disk
- `distribution/`: sharded tables and a replicated tower, made from a plan
- `dynamic/`: which of unbounded ids have a row
- `exchange/`: ids and vectors on their way from rank to rank
- `kernels/`: compiled code for what torch operations do too slowly on CPUs
- `lookup/`: how a batch becomes the tower's inputs
- `planning/`: where rows go, and what that costs
- `tables/`: live rows and their first values
- `updates/`: how rows change
"""
