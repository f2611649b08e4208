"""A run leaves its results on disk and on the screen.

- `atomic.py`: text, CSV, pictures and folders that appear complete or not at all
- `captured_output.py`: what libraries print, put into a log
- `folder.py`: the run folder, what is in it and how it is opened
- `lasting.py`: whether a place outlasts the job that writes there
- `progress.py`: how far a run is, from the leading worker to the terminal
- `reporting.py`: metrics.jsonl, TensorBoard and summary.json
- `summaries.py`: what a finished command prints
- `terminal.py`: consoles, error lines and tables that are printed whole
"""
