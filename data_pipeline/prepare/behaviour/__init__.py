"""Events become histories, and held-out items are ranked among candidates.

- `candidates.py`: leave-one-out evaluation: a user's held-out item among others that the user never had
- `events.py`: who did something with which item, in which order
- `histories.py`: events become rows that ask whether a user's next item is this one
"""
