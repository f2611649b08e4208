"""A trained model scores rows.

- `curve_picture.py`: ROC, precision-recall and calibration curves of several splits, drawn
- `curves.py`: the curves of an evaluation, as tables and files: `shardrec evaluate --curves`
- `evaluate.py`: metrics of its own splits, or of other data: `shardrec evaluate`
- `predict.py`: a score for every row, as Parquet: `shardrec predict`
"""
