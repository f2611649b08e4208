"""A model with its tables, ready to step.

- `forward.py`: One forward pass: lookup -> tower
- `session.py`: What training, evaluation and prediction share, built from a run file: data, model and distributed
- `tower.py`: The tower's optimizer and the learning-rate schedule that tables and tower share
"""
