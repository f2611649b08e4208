"""The check of a GPU: everything that needs one, in one run whose results are one file: `shardrec bench gpu`.

- `check.py`: the sections in the order of their worth, each within its time
- `page.py`: a record as a Markdown page
- `plan.py`: which sections there are, and what each may take
- `process.py`: a section in a process of its own, which may hang or die
- `record.py`: what was found so far, written after each figure
- `sections/`: what is looked at, a module each
"""
