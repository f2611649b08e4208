"""A batch becomes the tower's inputs by lookups in TorchRec collections.

- `assemble.py`: how the outputs of TorchRec's collections become a tower's named inputs
- `columns.py`: how columns of a wide output become inputs, and their gradients columns again, in one pass
- `detached.py`: how ids that nothing is learned from are looked up beside the others
- `gradient_guard.py`: how gradients that would spoil rows are kept out of the kernels
- `groups.py`: which TorchRec collection holds which table
- `lookup.py`: the lookup of all tables
- `part.py`: one collection, and the ids that it reads
"""
