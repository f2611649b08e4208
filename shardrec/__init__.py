"""Trains recommenders whose ID tables outgrow a machine: `shardrec train RUN.yaml`.

- `__main__.py`:
"""
