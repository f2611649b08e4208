"""A trained model leaves as a bundle, which scores without anything that trained it: `shardrec export`.

- `arguments.py`: a program's inputs as plain tensors
- `cut.py`: an exported tower divided into what is computed once for a request, and for each candidate
- `export.py`: a run's checkpoint becomes a bundle
- `inlined.py`: regions without autocast as part of a tower's graph
- `item_files.py`: the catalogue with its vectors
- `loader/`: what reads a bundle, and is part of it
- `onnx.py`: a tower as ONNX, checked against torch
- `programs.py`: a tower exported by torch, whole and cut in two
- `row_specs.py`: how raw rows are read, in plain values
- `self_check.py`: a bundle's scores beside the trained model's
- `sides.py`: which features differ between the candidates of a request
- `summary.py`: what a bundle holds, in a few lines
- `table_files.py`: tables, id maps and vocabularies as files that can be mapped
"""
