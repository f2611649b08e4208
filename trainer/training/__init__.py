"""The loop, and all that it calls.

- `clock.py`: Training speed, without the time that evaluations, checkpoints and the first steps take
- `evaluation.py`: Scores a split with the tables as they are; training goes on afterwards as if nothing had happened
- `hooks.py`: What happens between steps: logging, evaluation, checkpoints
- `inspection.py`: Finds what is wrong with a run before anything is started or written: files, columns, model, memory
- `train_run.py`: A whole training run from its checked configuration: inspected, launched, summed up in its run folder
- `trainer.py`: Training: build, restore, then one step after another until the epochs are over or nothing improves
- `warm_start.py`: What a run starts from: the tables and tower parameters of other runs, named by `init_from`
"""
