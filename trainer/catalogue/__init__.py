"""The catalogue is all items that a model could recommend, each with its vector.

- `evaluation.py`: Evaluation over the whole catalogue makes lists of all items, and measures what users held out there
- `held_out.py`: Held-out items are what each user of a split was to be shown; what is known already is left out
- `items.py`: A catalogue is all items that a model may recommend, with their features and how often training has each
- `raw_items.py`: Raw items are those of a file as it was before preparation: new ones get numbers, and keep their names
- `top_n.py`: the items of the largest dot products with queries, exactly
- `vectors.py`: Vectors of items and of users are made by a model's towers, on all ranks together
"""
