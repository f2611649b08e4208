"""Kernels are compiled code of our own, for what torch operations do too slowly on CPUs.

- `build.py`: the library's sources; compiles all libraries, at installation or at first use
- `draws.h`, `halves.h`, `intrinsics.h`: random bits of counters, fp16, and what the compiler has for vectors
- `exports.cpp`, `forms.h`: its entry points, and what it has for each set of instructions
- `fresh.cpp`, `fresh.h`: what rows start with that ids get anew
- `fresh.py`: this, on tensors
- `id_map.py`, `ids.cpp`, `ids.h`: ids of unbounded tables, found and given rows
- `library.py`: its functions, on tensors
- `rows.cpp`, `rows.h`: rows of tables, looked up and updated
"""
