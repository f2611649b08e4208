"""Made-up data has best scores that are known.

- `interests.py`: a click log whose signal is in histories of several interests
- `planted.py`: a click log of power-law ids whose true click probabilities are known
- `synthetic.py`: a planted log written as Parquet, with the best scores that any model can reach
"""
