"""A run leaves its results on disk and on the screen.

- `as_found.py`: what a training finds of a run, put back where nothing comes of it
- `atomic.py`: text, CSV, pictures and folders that appear complete or not at all
- `captured_output.py`: what libraries print, put into a log
- `command_logs.py`: logs and messages of one command, in a folder of their own
- `final_curves.py`: curves of the best checkpoint, in a few hundred numbers
- `folder.py`: the run folder, what is in it and how it is opened
- `handed_back.py`: what workers leave for the launcher: a result, or the line that stopped the run
- `heartbeat.py`: time stamps kept fresh, by which other machines see that a process lives
- `holds.py`: a checkpoint that somebody reads, kept from being pruned
- `interruption.py`: what a command that a signal ends says
- `lasting.py`: whether a place outlasts the job that writes there
- `launches.py`: the commands that trained in a run folder, with versions, and their memory over time
- `lock.py`: a run folder is for one training at a time
- `owner.py`: which process works on a run folder, and whether it still lives
- `progress.py`: how far a run is, from the leading worker to the terminal
- `records.py`: the lines of metrics.jsonl
- `reporting.py`: metrics.jsonl, TensorBoard and summary.json
- `run_files.py`: where the files of a run lie
- `signals.py`: SIGTERM and Ctrl-C, minded from the first import on
- `stop_request.py`: wishes that a training stop between two steps, or end with a checkpoint
- `store_lock.py`: a run in a store is for one training at a time
- `summaries.py`: what a finished command prints
- `summary_file.py`: what a run came to, as JSON
- `synced.py`: a run in a store has a mirror on each machine that works on it
- `terminal.py`: consoles, error lines and tables that are printed whole
- `worker_lines.py`: lines from a worker to the user
"""
