"""A plan applied to a step.

- `distribute.py`: Applies a plan to a training step: tables by TorchRec's DistributedModelParallel, the tower in
- `frozen_rows.py`: Tables that are only read, for evaluation and prediction: no optimizer state, and int8 rows where
- `replicas.py`: Data-parallel tables: every rank holds all rows, and gradients are summed over the ranks once a step
- `row_kernels.py`: The one module that leans on TorchRec's private hooks (checked with torchrec 1.6.1 and 1.8.0)
- `sharded.py`: TorchRec's sharded modules with our kernels in them
"""
