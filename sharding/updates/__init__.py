"""How rows change.

- `choose.py`: Which optimizer a table gets: the `RowUpdate` of its settings, and whether FBGEMM's kernels have it
- `context.py`: What a step's updates depend on beside its batch: its number, a learning-rate factor, a loss weight
- `ftrl.py`: FTRL-Proximal with L1: tables whose unused weights are exactly 0 (Wide&Deep's wide part, logistic
- `row_tables.py`: Tables updated by our own kernel: gather, unique, gradients summed over the batch, then a
- `rules.py`: How rows change by a gradient: one `RowUpdate` for each optimizer, in torch operations on any device
- `sample_counts.py`: In how many training samples each row of a table occurs: what mini-batch-aware L2 divides a
"""
