"""A trained model scores rows.

- `evaluate.py`: metrics of its own splits, or of other data: `shardrec evaluate`
- `predict.py`: a score for every row, as Parquet: `shardrec predict`
"""
