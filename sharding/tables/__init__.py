"""Live rows have first values that depend on the seed alone, whatever the plan.

- `collective.py`: exchanges between the ranks of a process group
- `draws.py`: random bits as a function of a counter
- `first_values.py`: first values of rows by their number in the table
- `first_values_by_id.py`: first values of a dynamic table's rows by their id
- `live.py`: what is declared of a table, how it is stored, and where its live rows are
- `magnitudes.py`: which values training goes on from: finite, and not absurdly large
- `module_names.py`: what stands for a table's or a feature's name inside of torch and TorchRec
- `rounding.py`: stochastic rounding of fp16 rows
"""
