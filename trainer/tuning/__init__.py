"""`shardrec tune` searches for settings: each trial is an ordinary run, and validation rows alone judge it.

- `failed_line.py`: one line about what ended a trial
- `page.py`: the page of a search
- `pictures.py`: what was found as the search went on, and which keys mattered
- `plan.py`: what is searched for, checked before anything starts
- `report.py`: what a search has come to: a table, trials.csv and the best trial's run file
- `search.py`: the search itself: asks for settings, trains, tells what came of them
- `space.py`: a run file's space, as Optuna draws from it
- `study.py`: Optuna's study of a folder, and how it is taken up again
- `trial.py`: a trial while it trains: what its evaluations say, and whether it is asked to stop
- `trial_process.py`: a process that trains the trials that it is told
- `workplace.py`: where trials are trained: in processes of their own, or in this one
"""
