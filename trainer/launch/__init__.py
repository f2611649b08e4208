"""Where workers come from.

- `allocator.py`: the C allocator keeps memory for the next step
- `backends.py`: a worker function runs in this process, under torchrun, or on Ray
- `captured_output.py`: what libraries print goes into a log
- `cores.py`: how many cores there are, and how many workers and threads a run has
- `early.py`: a local Ray and this process's imports start side by side
- `environment.py`: a worker's place among its peers
- `on_ray.py`: a worker function runs on Ray's workers
- `peak_memory.py`: peak memory of all of a run's processes
- `ray_train.py`: Ray Train without what a first step would wait for
- `running_ray.py`: a local Ray is started and stopped, or a cluster joined
- `supervision.py`: progress, logs and memory around a launch
- `worker.py`: a worker's whole life, however it was launched
"""
