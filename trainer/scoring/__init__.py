"""A trained model scores rows.

- `calibration.py`: predictions mapped onto the rates at which labels come true, as the run folder keeps it
- `curve_picture.py`: ROC, precision-recall and calibration curves of several splits, drawn
- `curves.py`: the curves of an evaluation, as tables and files: `shardrec evaluate --curves`
- `evaluate.py`: metrics of its own splits, or of other data: `shardrec evaluate`
- `predict.py`: a score for every row, as Parquet: `shardrec predict`
"""
