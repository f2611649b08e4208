"""Where workers come from.

- `allocator.py`: The C allocator's settings for training: memory that one step frees is for the next one, not for the
- `backends.py`: Runs one worker function on every worker: in this process, under torchrun, or on a Ray cluster by Ray
- `captured_output.py`: Keeps what libraries print out of the user's way: in a log file instead of on the terminal
- `environment.py`: Where a worker stands among its peers, and the few collectives on small Python objects that a run
- `on_ray.py`: Workers on Ray, by Ray Train's TorchTrainer: a local Ray that is started and stopped, or a cluster
- `peak_memory.py`: Peak memory of a run on this machine: of the launching process and all that descends from it
- `supervision.py`: Around a launch, in the process that the user started: progress on the terminal, chatter in logs
- `worker.py`: One worker's whole life, however it was launched: threads, process group, precision, work, and a line
"""
