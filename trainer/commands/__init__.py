"""Each command has its body here: what it takes, what it calls, what it prints.

- `arguments.py`: what no command takes as an argument
- `bench.py`: `shardrec bench ...`: how fast this machine reads, steps, exchanges, writes checkpoints and admits ids
- `checkpoint.py`: `shardrec checkpoint ...`: what is in a checkpoint, what differs, tables out of and into one
- `compare.py`: `shardrec compare` and `contrast`: several models, and whether they differ by more than chance
- `export.py`: `shardrec export`: a trained model as a bundle that scores on its own
- `ope.py`: `shardrec ope`: what a policy would have earned
- `options.py`: options and arguments that several commands have (`--set` among them), each declared once
- `plan.py`: `shardrec plan`: where tables would live
- `report.py`: `shardrec report`: runs on one page
- `rank.py`: `shardrec calibrate` and `rank`: scores that are probabilities, and orders by them
- `retrieve.py`: `shardrec retrieve` and `vectors`: items for users and like an item, and what these are found by
- `runs.py`: `shardrec train`, `evaluate` and `predict`: one run
- `serve.py`: `shardrec serve`: a bundle answers over HTTP
- `simulate.py`: `shardrec simulate`: policies and the users that they serve
- `tables.py`: `shardrec tables`: how well the tables of a run are used
- `tune.py`: `shardrec tune`: settings searched for
"""
