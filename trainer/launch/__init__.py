"""Workers are launched in this process, under torchrun or on Ray.

- `absent_workers.py`: workers that others wait for in vain
- `agreement.py`: whether ranks have the same settings and see the same files
- `allocator.py`: how the C allocator keeps memory for the next step
- `backends.py`: which backend runs a worker function: this process, torchrun or Ray
- `capacity.py`: whether Ray has room for a run's workers
- `cores.py`: how many cores there are, and how many workers and threads a run has
- `deterministic.py`: the same bits in every run
- `early_start.py`: a local Ray, started beside this process's imports
- `elastic.py`: as many workers as a cluster has room for
- `environment.py`: a worker's place among its peers
- `freed_memory.py`: memory of the host and of GPUs, given back after a run; the peak of the latter
- `last_words.py`: what a worker that ends without a user's error leaves for the launcher to say
- `leaving.py`: workers leave together, between two steps
- `meeting.py`: ranks that torchrun starts, and starts again, meet in its store
- `notes.py`: what ranks that torchrun starts again have to know of those before them
- `on_ray.py`: how a worker function runs on Ray's workers
- `parent.py`: processes that end with the one that started them
- `patient_group.py`: collectives on Python objects, for which late workers are waited for, but not frozen ones
- `peak_memory.py`: peak memory of all of a run's processes
- `ray_train.py`: Ray Train without what a first step would wait for
- `ray_watch.py`: the end of a local Ray's servers, noticed
- `restarts.py`: when workers that failed start again
- `running_ray.py`: a local Ray, started and stopped, or a cluster, joined
- `signs.py`: signs of life that workers show each other
- `supervision.py`: progress, logs and memory around a launch
- `torchrun.py`: what a process knows of the torchrun that launched it
- `worker.py`: a worker's whole life, however it was launched
"""
