"""From a batch to the tower's inputs.

- `assemble.py`: The last step of a lookup: collections' outputs -> a tower's named inputs
- `columns.py`: From the collections' wide outputs [B, all columns] to the tower's inputs, and back for gradients, in
- `lookup.py`: From a batch of ids to a tower's named inputs: the one module that knows which collection holds which
"""
