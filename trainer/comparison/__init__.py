"""Several runs beside each other.

- `compare.py`: `shardrec compare`: several models of one run file, each trained under several seeds on the same data
- `contrast.py`: `shardrec contrast`: models of a comparison on the same test rows, each less the first, with
- `paired_bootstrap.py`: Differences between models that scored the same rows, with intervals over whose rows these are
- `scoreboard.py`: What the runs of a comparison came to, one row a model: on the terminal, as CSV, as Markdown and as
"""
