"""Kernels of layers compute what lies between a tower's matrix products, in few passes over memory.

- `build.py`: the library's sources
- `dice.cpp`, `dice.h`: Dice, and sums of columns
- `exports.cpp`, `forms.h`: the library's entry points, and what it has for each set of instructions
- `lanes.h`: sixteen numbers at a time, and functions of them
- `library.py`: its functions, on tensors
"""
