"""Ids and vectors go from rank to rank: one message of ids a step, one of vectors, one of gradients.

- `exchange.py`: several parts' tables, looked up on all ranks together
- `id_layout.py`: which features' ids go to which rank, in which form
- `ids.py`: the messages of ids
- `kernel_ids.py`: what all ranks ask for, as one kernel's ids
- `own_ids.py`: a rank's own ids, as they are sent
- `slots.py`: what each rank's kernels look up
- `vector_layout.py`: where in messages which vectors are
- `vectors.py`: the messages of vectors and gradients
"""
