"""Inputs that are broken at random: whatever is read, what is wrong with it is one line and never a traceback.

`python -m tests.fuzzing importers --cases 10000` tries many; the suite tries a few hundred. Guided by which lines of
code they reach, for an hour: `python -m tests.fuzzing.guided importers --seconds 3600 --corpus FOLDER`.

- `broken_bytes.py`: files' bytes, broken at random
- `checkpoints.py`: forged manifests, and run folders with damaged files
- `documents.py`: run files, overrides and schemas
- `doors.py`: what can be fuzzed
- `drawn_bytes.py`: draws of bytes
- `guided.py`: draws that a coverage-guided fuzzer makes
- `importers.py`: raw files and recipes of `shardrec prepare`
- `mutations.py`: documents with one thing changed in them
- `parquet.py`: Parquet files with flipped bits, with and without checksums
"""
