"""What a run records goes to experiment trackers beside it, each from a process of its own.

The process follows metrics.jsonl: whatever becomes of a tracker or its server, training neither waits nor ends.

- `extras.py`: whether the packages of the trackers that a run file names are installed
- `follower.py`: the process that brings one run's records to one tracker
- `job.py`: what a follower is told at its start
- `kept.py`: which run of the tracker's a run folder is, and what was sent of it
- `mlflow_run.py`: a run of MLflow's
- `records.py`: lines of metrics.jsonl as they come
- `tracked.py`: a training during which followers run
- `tracker.py`: what a follower asks of a tracker
- `wandb_run.py`: a run of Weights & Biases
"""
