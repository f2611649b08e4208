"""Every public data set or format has one file here: add yours.

- `amazon.py`: Amazon reviews and metadata as published, as histories
- `avazu.py`: Avazu's click log (Kaggle)
- `criteo.py`: Criteo's click logs: Kaggle's files and the Terabyte's
- `delimited.py`: any CSV or TSV whose columns a recipe declares
- `frappe.py`: Frappe, app use in context: the published libfm files or the raw log
- `implicit.py`: any delimited log of users and items, with held-out items among candidates
- `libfm.py`: libfm and svmlight files
- `movielens.py`: MovieLens 1M and 100K, each rating with its user's and movie's features
- `movielens_histories.py`: MovieLens 1M and 100K as histories
- `ncf.py`: the files published with neural collaborative filtering
- `open_bandit.py`: logged bandit data in the layout of the Open Bandit Dataset
- `pairs.py`: pairs of users and items in files for training, validation and test, as LightGCN's data
- `ratings.py`: MovieLens' ratings as rows of items or users, for AutoRec
- `user_histories.py`: text files of user histories
"""
