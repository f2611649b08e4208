"""An emulated GPU shows, on machines without one, that nothing of a run is left on the wrong device.

Its tensors say `cuda:N` and hold their values on the CPU. As on a GPU, an operation that is given tensors of both
devices fails where it is called, in backward too, and so does a collective of NCCL that is given CPU tensors. FBGEMM's
lookup module is built as on CUDA, with its buffers on the device; its kernels alone are played. This says nothing of
real kernels, streams, NCCL or speed: tests marked `gpu` do.

- `device.py`: the tensor, what happens to operations on it, and what `torch.cuda` says meanwhile
- `groups.py`: which process groups stand for NCCL's, and replicas of a tower without DistributedDataParallel
- `kernels.py`: FBGEMM's module of tables, its CUDA kernels played by our own
- `emulated.py`: all of it, for as long as a context lasts
- `test_device.py`: the emulation notices what a GPU would refuse
- `test_every_model.py`: every model steps, is resumed and steps on two ranks of emulated GPUs as on CPUs
"""
