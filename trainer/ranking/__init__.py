"""Ranking orders candidates by what they are expected to bring, which takes scores that are probabilities.

- `calibrate.py`: a map of scores to probabilities, fitted, measured and kept: `shardrec calibrate`
- `isotonic.py`: the non-descending map that is nearest to the labels
- `ordering.py`: rows of groups ordered by probability, or by probability x bid
- `platt.py`: the logistic map that is nearest to the labels
- `rank.py`: rows of files scored and ordered: `shardrec rank`
- `reliability.py`: how far predictions are from labels, bin by bin
- `report.py`: how a calibration prints
"""
