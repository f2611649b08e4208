"""A trained model leaves as a bundle, which scores without anything that trained it: `shardrec export`.

- `arguments.py`: a program's inputs as plain tensors
- `cut.py`: an exported tower divided into what is computed once for a request, and for each candidate
- `programs.py`: a tower exported by torch, whole and cut in two
- `sides.py`: which features differ between the candidates of a request
"""
