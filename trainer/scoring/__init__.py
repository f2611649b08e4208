"""Scores of a trained model.

- `evaluate.py`: metrics of its own splits, or of other data: `shardrec evaluate`
- `predict.py`: a score for every row, as Parquet: `shardrec predict`
"""
