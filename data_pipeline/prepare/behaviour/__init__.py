"""Histories of events, and candidates beside them.

- `candidates.py`: Leave-one-out evaluation: a user's held-out item among candidates that the user never had
- `events.py`: Who did something with which item, in which order: what rows with histories are made of
- `histories.py`: Events -> rows that ask whether the next item of a user is this one, given what the user had before
"""
