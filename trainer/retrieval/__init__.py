"""Retrieval finds items for users, and items like items, out of a whole catalogue.

- `asked_rows.py`: the rows of users that are asked about, given or taken from the run
- `faiss_index.py`: an approximate index, which looks at a part of the items
- `index.py`: which index there is, and its recall against the exact one
- `index_settings.py`: how much an approximate index looks at
- `item_rows.py`: items' table rows, by which those of any model are alike
- `key_names.py`: ids as people call them, where preparation made numbers of them
- `lists.py`: the lists of rows of users, batch by batch
- `requests.py`: what is asked for, checked before anything is scored
- `retrieve.py`: lists for users, or of items like an item, as Parquet: `shardrec retrieve`
- `seen.py`: items that a user has had already
- `similar.py`: items like an item
- `user_rows.py`: the last row of each user of a run
- `write_vectors.py`: vectors of items and users as Parquet: `shardrec vectors`
"""
