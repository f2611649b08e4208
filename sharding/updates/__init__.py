"""Rows change by the rule of their table's optimizer.

- `choose.py`: which rule a table gets, and whether FBGEMM's kernels have it
- `compiled_rows.py`: the compiled kernel that has these rules too
- `context.py`: what a step's updates depend on beside its batch
- `ftrl.py`: the rule of FTRL-Proximal
- `row_tables.py`: tables that are looked up and updated by our own kernel
- `rules.py`: the rules of the other optimizers, and what all rules share
- `sample_counts.py`: in how many training samples each row occurs
"""
