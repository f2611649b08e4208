"""One file a public data set or format: add yours here.

- `amazon.py`: Amazon reviews as published (McAuley et al., SIGIR 2015; 2018's files too): raw JSON lines, plain or
- `avazu.py`: Avazu's click log (Kaggle): CSV with or without its header line; `hour` (YYMMDDHH) becomes hour and
- `criteo.py`: Criteo's display advertising logs: Kaggle's `train.txt`, `test.txt` and the Terabyte's `day_*`
- `delimited.py`: Any CSV or TSV whose columns a recipe (YAML) declares
- `frappe.py`: Frappe (Baltrunas et al
- `implicit.py`: Any delimited log of users and items -> leave-one-out: training positives, and held-out items among
- `libfm.py`: libfm and svmlight files, `label id:value id:value ...`, with one id feature per field where fields can
- `movielens.py`: MovieLens 1M and 100K as published (plain or gzip), joined: a rating's row has its user's and
- `movielens_histories.py`: MovieLens 1M and 100K as histories: the movies that a user rated, whatever the rating, in
- `ncf.py`: Files as published with neural collaborative filtering (He et al., WWW 2017), plain or gzip
- `ratings.py`: Single ratings -> one row of an item (or user) with the ratings that are known of it and those that
- `user_histories.py`: Text files of user histories, `user item item ...`, oldest first, and JSON of items' attributes
"""
