"""Sharded tables and a replicated tower are made from a plan.

- `codecs.py`: smaller numbers where vectors go from rank to rank
- `distribute.py`: a step whose tables are sharded and whose tower is replicated
- `exchanged.py`: sharded tables, looked up by one exchange
- `frozen_rows.py`: tables that are only read, and int8 rows
- `host_groups.py`: process groups of the ranks of a host, and of ranks of equal place on all hosts
- `local_tables.py`: tables whose rows a rank holds whole, looked up without an exchange
- `replicas.py`: data-parallel tables and the step that updates all replicas alike
- `row_kernels.py`: the kernels that look rows up and update them
- `sharded.py`: TorchRec's sharded modules with these kernels in them
- `tower.py`: a tower whose gradients are averaged while backward computes the rest
"""
