"""Runs are broken on purpose, by all that can befall one, and each is compared with a run that nothing befell.

`python -m tests.faults --out FILE` goes on where FILE ends, as `make faults` does. The suite tries each kind once.

- `bench.py`: makes trials, with what all of them need
- `campaign.py`: faults by the hundred, and the table of what came of them
- `cluster.py`: a Ray cluster of several machines, kept for many trials
- `course.py`: a run from its first start to its end, through all its faults
- `elastic.py`: runs on a cluster whose machines come and go
- `faults.py`: what befalls a run, and when
- `launched.py`: a run in processes of its own, by any launcher
- `stores.py`: a run in an object store, and what befalls that
- `test_faults.py`: each fault once
- `trial.py`: one run, its faults, its outcome
- `verdict.py`: whether a run is the one that nothing befell, and what it left behind
"""
