"""Sections of the check of a GPU: each is a module whose `run(task, report)` reports figures, and raises what fails.

- `cuda_tests.py`: the tests that need a GPU, by pytest in a process of its own
- `dlrm.py`: DLRM with 26 tables of dim 128 and batches of 65,536: samples/s, profile, memory
- `dynamic_tables.py`: a step with unbounded ids beside the same step without, and counts that must be right
- `every_model.py`: a small run of every model, on data of its kind
- `facts.py`: versions, the machine, and what its memory and its products reach
- `history_forms.py`: DIN and DIEN beside their padded forms
- `host_reads.py`: where a step's host reads values of tensors
- `host_waits.py`: where a step of each model waits for the GPU
- `losses.py`: losses of the device beside those of the CPU
- `row_memory.py`: rows in host memory, managed memory and a cache: step time, and equality with device memory
- `short_runs.py`: run files of the check, and runs of some steps in this process
- `task.py`: what a section is given
- `timing.py`: seconds of work on a device, and what its kernels took
"""
