"""A trained model leaves as a bundle, which scores without anything that trained it: `shardrec export`.

- `arguments.py`: a program's inputs as plain tensors
- `cut.py`: an exported tower divided into what is computed once for a request, and for each candidate
- `onnx.py`: a tower as ONNX, checked against torch
- `programs.py`: a tower exported by torch, whole and cut in two
- `sides.py`: which features differ between the candidates of a request
- `export.py`: a run's checkpoint becomes a bundle
- `loader.py`: the one file that reads a bundle, and is part of it
- `plain_tower.py`: towers of rows without histories, exported as they are
- `row_specs.py`: how raw rows are read, in plain values
- `self_check.py`: a bundle's scores beside the trained model's
- `summary.py`: what a bundle holds, in a few lines
- `table_files.py`: tables, id maps and vocabularies as files that can be mapped
"""
