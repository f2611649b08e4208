"""A whole checkpoint: written, read, looked into, compared.

- `checkpoint.py`: Whole checkpoints: tables, tower, optimizers, generators and the place in the data; complete or
- `contents.py`: `shardrec checkpoint show`: what is in a checkpoint, read front to back in constant memory, every
- `difference.py`: `shardrec checkpoint diff`: what differs between two checkpoints of any plans and world sizes, in
- `id_map_facts.py`: How full the id map of a checkpoint is, read front to back in constant memory
- `saved_model.py`: A checkpoint named on the command line, and what its run says of one of its tables
"""
