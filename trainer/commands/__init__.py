"""The bodies of the commands.

- `bench.py`: `shardrec bench ...`: each command prints a table and, as its last line, one JSON object
- `checkpoint.py`: `shardrec checkpoint ...`: what is in a checkpoint, what differs between two, and tables out of and
"""
