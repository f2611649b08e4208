"""Negatives are drawn for training rows.

- `catalogue.py`: one row an item, made of a whole data set
- `negatives.py`: rows of a training row's user and context with items that the user has not
- `pairs.py`: a set of known (user, item) pairs
- `own_events.py`: histories without the item of their own row
- `settings.py`: what `data.negatives` declares, and which features a drawn item brings along
- `shared.py`: items that all rows of a global batch are told from
"""
