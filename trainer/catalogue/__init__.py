"""The catalogue is all items that a model could recommend, each with its vector.

- `top_n.py`: the items of the largest dot products with queries, exactly
"""
