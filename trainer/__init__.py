"""The trainer makes a run of a run file: workers, loop, checkpoints, reports, commands.

- `api/`: what `import shardrec` offers
- `benchmarks/`: all of `shardrec bench`
- `catalogue/`: all items that could be recommended, with their vectors
- `checkpoints/`: a whole checkpoint: written, read, looked into, compared
- `cli.py`: `shardrec ...`; `python -m shardrec` is the same
- `commands/`: the bodies of the commands
- `comparison/`: several runs beside each other
- `config/`: what a run file says
- `export/`: a trained model as a bundle that scores on its own
- `launch/`: where workers come from
- `off_policy/`: a policy judged by the log of another one
- `planning/`: what a step would take on machines that may not be here
- `ranking/`: scores calibrated, and orders by what a click brings
- `reports/`: a run, or several, on one page
- `retrieval/`: items found for users, out of a whole catalogue
- `run_folder/`: what a run leaves on disk and on the screen
- `scoring/`: scores of a trained model
- `serving/`: a bundle that answers over HTTP
- `session/`: a model with its tables, ready to step
- `simulation/`: users who are not real, and policies that learn from what these click
- `tables/`: rows of tables in and out, and how tables are used
- `tracking/`: what a run records, brought to experiment trackers
- `training/`: the loop, and all that it calls
- `tuning/`: settings searched for
"""
