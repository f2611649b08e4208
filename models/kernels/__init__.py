"""Kernels are compiled code of our own, for what torch operations do too slowly on CPUs.

- `sources.py`: the sources of a library of kernels, compiled at installation or at first use
- `memory.h`: the memory that kernels work in, and what happens where it is short
- `levels.h`: the sets of instructions that kernels are compiled for, and the one that a processor runs
- `threads.py`: how many threads kernels have
"""
