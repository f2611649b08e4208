"""Made-up data whose best scores are known.

- `interests.py`: A click log whose signal is in histories: several interests each, and clicks for what the target's
- `planted.py`: A click log whose true click probabilities are known: power-law ids, a planted logit, labels drawn
- `synthetic.py`: `shardrec prepare synthetic`: a planted click log as Parquet, and beside it the best scores that any
"""
