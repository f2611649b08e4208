"""Kernels are compiled code of our own, for what torch operations do too slowly on CPUs.

- `build.py`: the library, compiled at installation or at first use
- `exports.cpp`, `forms.h`: its entry points, and the form of it that a processor has the instructions for
- `id_cache.py`, `ids.cpp`, `ids.h`: ids of unbounded tables, found and given rows
- `library.py`: its functions, on tensors
- `rows.cpp`, `rows.h`: rows of tables, looked up and updated
"""
