"""What a run leaves on disk and on the screen.

- `atomic.py`: text, CSV, pictures and folders that appear complete or not at all
- `folder.py`: The run folder: everything that evaluate, predict, export and resume need, and the only checkpoint store
- `progress.py`: How far a run is: the leading worker writes a small file, the process that the user started shows it
- `reporting.py`: What a run leaves for people and programs: metrics.jsonl, TensorBoard, the progress file
- `summaries.py`: What a finished command prints
- `terminal.py`: Reports for people in which no number is cut off: lines are as long as they need to be, which a
"""
