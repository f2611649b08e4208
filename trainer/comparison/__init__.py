"""Several runs are set beside each other.

- `compare.py`: models of one run file, each trained under several seeds: `shardrec compare`
- `contrast.py`: what models of a comparison score better on the same rows, with intervals: `shardrec contrast`
- `paired_bootstrap.py`: differences of AUC and GAUC, and their intervals over draws of users
- `scoreboard.py`: what the runs of a comparison came to, as a table, CSV, Markdown and a plot
"""
