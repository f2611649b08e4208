"""What `import shardrec` offers, one file each.

- `door.py`: what callers pass is checked, and errors name it as Python does
- `export.py`: a trained model as a bundle that scores on its own
- `load.py`: run files and dictionaries as checked configurations
- `opened_catalogue.py`: items found for users and like items, by a model in this process
- `plan.py`: where tables would live, and what a step would take
- `process_group.py`: the process group that models open in one process share
- `report.py`: a page about a run, or about several
- `rows.py`: rows to be scored, as files or in memory
- `summary.py`: what a finished training run says of itself
- `train.py`: training, on the workers that a run names
- `trained_model.py`: a trained model that scores rows and shows its tables
- `tune.py`: settings searched for by validation rows
"""
