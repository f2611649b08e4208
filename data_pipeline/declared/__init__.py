"""What users write in YAML and in options, read within bounds.

- `comma_lists.py`: lists written as one word with commas
- `declaration.py`: declarations, and the one line that says what is wrong with one
- `documents.py`: YAML, read and written by one door
- `flags.py`: true and false, which are no numbers
- `name_patterns.py`: which names a pattern of a run file means
- `sizes.py`: sizes in bytes, as people read and write them
"""
