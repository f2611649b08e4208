"""Negatives drawn for training rows.

- `catalogue.py`: Whole data sets read once, in order, and the catalogue made of them: one row an item, by ascending
- `negatives.py`: Negatives: for every training row, rows of the same user and context with items that the user has
"""
