"""Scores of a trained model.

- `evaluate.py`: A trained model's metrics on its own splits, or on other data: the worker of `shardrec evaluate`
- `predict.py`: Scores for every row of some files, beside their key columns, as Parquet: all of it or nothing
"""
