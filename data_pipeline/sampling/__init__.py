"""Negatives drawn for training rows.

- `catalogue.py`: whole data sets read once, in order, and the catalogue made of them, one row an item
- `negatives.py`: for every training row, rows of the same user and context with items that the user has not
- `pairs.py`: a set of known (user, item) pairs
- `settings.py`: what `data.negatives` declares, and which features a drawn item brings along
"""
