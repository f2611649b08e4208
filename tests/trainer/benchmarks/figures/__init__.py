"""Figures of docs/performance.md are made by these commands; no test runs them.

- `deepctr.py`: DeepCTR-Torch's models, in an environment that need not have shardrec
- `in_turns.py`: `shardrec bench step` and DeepCTR-Torch, one after the other, as a table
- `forms.py`: the training step with towers' compiled kernels and by torch operations alone, in turns
- `growth.py`: `shardrec bench step` as ids, batches, fields and further sizes grow, as a table and a picture
- `panels.py`: charts beside one another in one picture
- `soak.py`: a run of 50,000 steps watched from without: memory, files, threads, logs, speed
"""
