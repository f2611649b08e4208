"""Process groups on the emulated device: gloo's, of which some stand for NCCL's and take the device's tensors only.

Those that were made as gloo's are for the CPU's. The tower's replicas are kept alike by hooks, since
DistributedDataParallel's own are C++ that reaches for a tensor's storage.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel

from tests.emulated_cuda.device import DeviceMix, DeviceTensor, leaves_of, run


class Collectives(TorchDispatchMode):
    """Refuses tensors of the CPU in groups that stand for NCCL's, and the device's in those of gloo."""

    def __init__(self) -> None:
        super().__init__()
        self.of_cpu: set[str] = set()
        """Names of the groups that were asked of gloo."""
        self.seen: dict[str, int] = {}
        """How many collectives of each kind went over the device's groups."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = leaves_of((*args, *kwargs.values()))
        if operation.namespace == "c10d" and "barrier" not in operation._schema.name:  # whose tensor means nothing
            self._check(operation, leaves)
        if any(isinstance(x, DeviceTensor) for x in leaves):
            return run(operation, args, kwargs)
        return operation(*args, **kwargs)

    def _check(self, operation: Any, leaves: list[Any]) -> None:
        groups = [dist.ProcessGroup.unbox(x) for x in leaves if isinstance(x, torch.ScriptObject) and _is_group(x)]
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        of_cpu = any(group.group_name in self.of_cpu for group in groups)
        if not of_cpu:
            self.seen[operation._schema.name] = self.seen.get(operation._schema.name, 0) + 1
        strangers = [t for t in tensors if isinstance(t, DeviceTensor) == of_cpu and t.numel()]
        if strangers:
            backend, where = ("gloo", "GPU") if of_cpu else ("NCCL", "CPU")
            raise DeviceMix(f"{operation._schema.name}: a group of {backend} got a tensor of the {where}")


def _is_group(script_object: Any) -> bool:
    return "ProcessGroup" in str(script_object._type())


class HookedReplica(nn.Module):
    """A tower whose parameters start as rank 0's and get the mean of all ranks' gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), 0)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_average)
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


def _average(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


@contextmanager
def emulated_groups() -> Iterator[Collectives]:
    """Yields what watches the process groups; what is asked of NCCL is made as a group of gloo meanwhile."""
    watch = Collectives()
    initialise, new_group = dist.init_process_group, dist.new_group
    object_device = c10d._get_object_coll_device

    def init_process_group(backend: str | None = None, *args: Any, device_id: Any = None, **kwargs: Any) -> None:
        initialise("gloo", *args, **kwargs)
        name = dist.group.WORLD.group_name  # type: ignore[union-attr]
        (watch.of_cpu.add if backend == "gloo" else watch.of_cpu.discard)(name)  # one after another have the same name

    def made(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        group = new_group(*args, backend="gloo", **kwargs)
        if backend == "gloo":
            watch.of_cpu.add(group.group_name)
        return group

    def of_objects(group: Any = None) -> str:
        of_cpu = (group or dist.group.WORLD).group_name in watch.of_cpu
        return object_device(group) if of_cpu else str(DeviceTensor.home)

    with ExitStack() as stack:
        stack.enter_context(patch.object(c10d, "_get_object_coll_device", of_objects))
        stack.enter_context(patch.object(dist, "init_process_group", init_process_group))
        stack.enter_context(patch.object(dist, "new_group", made))
        stack.enter_context(patch.object(DefaultDataParallelWrapper, "wrap", _wrap))
        stack.enter_context(watch)
        yield watch


def _wrap(self: Any, parallel: DistributedModelParallel, env: Any, device: torch.device) -> None:
    parallel._dmp_wrapped_module = HookedReplica(parallel._dmp_wrapped_module)
