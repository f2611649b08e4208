"""Runs are broken on purpose, by all that can befall one, and each is compared with a run that nothing befell.

`python -m tests.faults --out FILE` goes on where FILE ends, as `make faults` does. The suite tries each kind once.

- `campaign.py`: trials by the hundred, and the table of their outcomes
- `cluster.py`: a Ray cluster of several machines, kept for many trials
- `elastic.py`: runs on a cluster whose machines come and go
- `faults.py`: what befalls a run, and when
- `launched.py`: a run in processes of its own, by any launcher
- `test_faults.py`: each fault once
- `trial.py`: one run, one fault, one outcome
"""
