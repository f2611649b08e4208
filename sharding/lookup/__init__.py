"""From a batch to the tower's inputs.

- `assemble.py`: how the collections' outputs become a tower's named inputs
- `columns.py`: how columns of a wide output become inputs, and their gradients columns again, in one pass
- `lookup.py`: which collection holds which table, and the lookup of all of them
"""
