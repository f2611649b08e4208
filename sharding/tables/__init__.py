"""Live rows and their first values.

- `collective.py`: `shardrec.models.metrics.collective.Collective` over a process group (gloo or NCCL)
- `draws.py`: Counter-based draws: 64 random bits as a function of a counter, in torch, so that no generator's state
- `first_values.py`: First values of table rows: a pure function of (seed, table, row, column), whatever the plan
- `first_values_by_id.py`: First values of a dynamic table's rows: a pure function of (seed, table, id, column)
- `live.py`: Tables as the layers of sharding see them: what is declared, and where the live rows are
- `rounding.py`: Stochastic rounding of fp16 rows: up or down by how near each is, so that small changes count in the
"""
