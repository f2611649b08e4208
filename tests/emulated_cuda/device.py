"""The emulated device: a tensor subclass, the modes that operations on it go through, and what `torch.cuda` says.

To torch's C++ code an emulated tensor is one of the CPU, so that its dispatcher and autograd engine need no CUDA. To
Python code it is on `cuda:N`. Operations that make tensors there, or move them, are caught as Python calls; all others
as they reach the dispatcher.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MEMORY = 80 << 30  # bytes of the device

MOVES = {"aten::copy_", "aten::_to_copy", "aten::lift_fresh"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""May have their indices on the CPU where the indexed tensor is on a GPU; not the other way round."""


CONTAINERS = (list, tuple)


class DeviceMix(RuntimeError):  # noqa: N818
    """Tensors of two devices met, as torch says it of a GPU."""


def refuse(name: str, tensors: list[Tensor]) -> None:
    """Raises DeviceMix with the operation, and the shapes of the CPU tensors in it."""
    shapes = ", ".join(str(list(t.shape)) for t in tensors)
    raise DeviceMix(f"{name}: expected all tensors to be on the same device, found {shapes} on cpu beside a GPU's")


class DeviceTensor(Tensor):
    """A tensor of the emulated GPU; `values` are its values, on the CPU."""

    values: Tensor  # type: ignore[assignment]
    home: torch.device = torch.device("cuda", 0)

    @staticmethod
    def __new__(cls, values: Tensor) -> "DeviceTensor":
        assert type(values) is Tensor or isinstance(values, torch.nn.Parameter), type(values)
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device="cpu",
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(operation, args, kwargs or {})

    def __repr__(self, **settings: Any) -> str:  # type: ignore[override]
        return f"{self.home}: {self.values!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        copied = DeviceTensor(self.values.detach().clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    def numpy(self, **settings: Any) -> Any:
        raise TypeError(f"can't convert {self.home} device type tensor to numpy")

    def __array__(self, *arguments: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.values.tolist()

    def item(self) -> Any:
        return self.values.item()

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def record_stream(self, stream: Any) -> None:
        pass

    def is_pinned(self, *arguments: Any) -> bool:
        return False

    def pin_memory(self, *arguments: Any) -> Tensor:
        raise RuntimeError(f"cannot pin a tensor of {self.home}")


def on_device(value: Any) -> Any:
    """Returns a CPU tensor's values as a tensor of the device; anything else as it is."""
    return DeviceTensor(value) if isinstance(value, Tensor) and not isinstance(value, DeviceTensor) else value


def on_cpu(value: Any) -> Any:
    """Returns an emulated tensor's values; anything else as it is."""
    return value.values if isinstance(value, DeviceTensor) else value


def leaves_of(values: Iterable[Any]) -> list[Any]:
    """Returns what lists and tuples hold, and those in them: operations have no other containers, and are many."""
    found: list[Any] = []
    for value in values:
        if type(value) in CONTAINERS:
            found += leaves_of(value)
        else:
            found.append(value)
    return found


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Returns a value, or what it holds, changed."""
    return type(value)([mapped(change, v) for v in value]) if type(value) in CONTAINERS else change(value)


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return DeviceTensor(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return on_cpu(gradient)


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: DeviceTensor) -> Tensor:
        return tensor.values.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return on_device(gradient)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device, a copy where it comes from the other."""
    if device.type == "cuda" and not isinstance(tensor, DeviceTensor):
        assert device.index in (None, DeviceTensor.home.index), f"{device} is another rank's GPU"
        return _ToDevice.apply(tensor)
    if device.type == "cpu" and isinstance(tensor, DeviceTensor):
        return _ToCpu.apply(tensor)
    return tensor


# ---------------------------------------------------------------- operations


def check_devices(operation: Any, args: tuple[Any, ...], leaves: list[Any]) -> None:
    """Raises DeviceMix where an operation gets tensors of both devices that a GPU would not take together."""
    strangers = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, DeviceTensor) and x.dim() > 0]
    if not strangers:  # a CPU tensor without dimensions counts as a number
        return
    name = operation._schema.name
    indexes_device = name in INDEXING and isinstance(args[0], DeviceTensor)
    if name not in MOVES and not indexes_device:
        refuse(name, strangers)


def run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation of which some tensor is the device's: on its values, the result being the device's too."""
    leaves = leaves_of((*args, *kwargs.values()))
    if operation.namespace != "c10d":  # `groups.py` looks at these
        check_devices(operation, args, leaves)
    if "device" in kwargs and torch.device(kwargs["device"] or "cpu").type == "cuda":
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = operation(*mapped(on_cpu, args), **{name: mapped(on_cpu, value) for name, value in kwargs.items()})
    if operation is torch.ops.aten._local_scalar_dense.default:
        return result
    if operation is torch.ops.aten.copy_.default and not isinstance(args[0], DeviceTensor):
        return args[0]
    return _identified(result, {id(x.values): x for x in leaves if isinstance(x, DeviceTensor)})


def _identified(result: Any, given: dict[int, Tensor]) -> Any:
    """Returns an operation's result on the device; what it changed in place is the tensor that it was given."""
    return mapped(lambda x: given[id(x)] if id(x) in given else on_device(x), result)


class Calls(TorchFunctionMode):
    """Catches Python's calls that make tensors on a device, move them, or ask where they are."""

    def __torch_function__(
        self, call: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (answer := _PLACES.get(call)) is not None:
            return answer(DeviceTensor.home) if isinstance(args[0], DeviceTensor) else call(*args)
        if call in _CALLS:
            return _CALLS[call](call, *args, **kwargs)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if device is not None and device.type == "cuda":
            return _made(call, args, kwargs)
        if device is not None and any(isinstance(x, DeviceTensor) for x in args):  # zeros_like(x, device="cpu")
            return call(*map(on_cpu, args), **kwargs)
        return call(*args, **kwargs)


_PLACES: dict[Any, Callable[[torch.device], Any]] = {
    Tensor.device.__get__: lambda home: home,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda home: True,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda home: False,  # type: ignore[attr-defined]
    Tensor.get_device: lambda home: home.index,
}


def _made(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Makes a tensor on the device by a function that was asked to."""
    out, requires_grad = kwargs.get("out"), kwargs.pop("requires_grad", False)
    values = {name: mapped(on_cpu, value) for name, value in kwargs.items()}
    made = call(*map(on_cpu, args), **values | {"device": torch.device("cpu")})
    if out is not None:
        return out
    return on_device(made).requires_grad_(requires_grad) if requires_grad else on_device(made)


def _to(call: Callable[..., Any], tensor: Tensor, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        like = args[0]
        device, args = DeviceTensor.home if isinstance(like, DeviceTensor) else like.device, (like.dtype, *args[1:])
    elif args and isinstance(args[0], torch.device | str | int) and not isinstance(args[0], bool):
        device, args = args[0], args[1:]
    device = torch.device(device) if device is not None else None
    if device is not None and device.type == "meta":
        return call(tensor, device, *args, **kwargs)
    if device is not None and tensor.device.type == "meta":
        raise NotImplementedError("cannot copy out of meta tensor; no data!")
    tensor = moved(tensor, device) if device is not None else tensor
    kwargs = {"dtype": args[0] if args else None} | {k: v for k, v in kwargs.items() if k != "non_blocking"}
    wanted = {name: value for name, value in kwargs.items() if value is not None}
    return call(tensor, **wanted) if wanted else tensor


def _new_tensor(call: Callable[..., Any], like: Tensor, data: Any, **kwargs: Any) -> Tensor:
    if not isinstance(like, DeviceTensor):
        return call(like, data, **kwargs)
    return on_device(torch.tensor(data, **({"dtype": like.dtype} | kwargs | {"device": "cpu"})))


_CALLS: dict[Any, Callable[..., Any]] = {
    Tensor.to: _to,
    Tensor.cpu: lambda call, tensor: moved(tensor, torch.device("cpu")),
    Tensor.cuda: lambda call, tensor, *device: moved(tensor, DeviceTensor.home),
    Tensor.new_tensor: _new_tensor,
}


# ---------------------------------------------------------------- torch.cuda


def _set_generator_state(state: Tensor, device: Any = None) -> None:
    assert type(state) is Tensor and state.dtype == torch.uint8, "a generator's state is on the CPU"
    torch.set_rng_state(state)


class Driver:
    """What `torch.cuda` answers of `count` GPUs of `MEMORY` bytes; the first is current until another is set.

    asked: GPUs whose memory was asked for, which on a real one opens a context there. reserved, allocated: bytes that
    torch's cache holds of a GPU, and of these those in use.
    """

    def __init__(self, count: int) -> None:
        self.current, self.count = 0, count
        self.asked: set[int] = set()
        self.reserved = self.allocated = 0

    def answers(self) -> dict[str, Callable[..., Any]]:
        """Returns the functions of `torch.cuda` that are replaced."""
        event = SimpleNamespace(synchronize=lambda: None)
        stream = SimpleNamespace(
            synchronize=lambda: None, record_event=lambda: event, wait_event=lambda waited_for: None
        )
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": self.set_device,
            "synchronize": lambda device=None: None,
            "current_stream": lambda device=None: stream,
            "Stream": lambda device=None: stream,
            "stream": lambda entered: nullcontext(entered),
            "get_device_properties": self.get_device_properties,
            "mem_get_info": self.mem_get_info,
            "memory_reserved": lambda device=None: self.reserved,
            "memory_allocated": lambda device=None: self.allocated,
            "max_memory_reserved": lambda device=None: self.reserved,
            "reset_peak_memory_stats": lambda device=None: None,
            "empty_cache": self.empty_cache,
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "set_rng_state": _set_generator_state,
        }

    def set_device(self, device: Any) -> None:
        self.current = torch.device(device).index

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        index = self.current if device is None else torch.device(device).index
        return SimpleNamespace(total_memory=MEMORY, uuid=f"GPU-{index}", major=9)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        asked = None if device is None else torch.device(device).index
        self.asked.add(self.current if asked is None else asked)
        return MEMORY - self.reserved, MEMORY

    def empty_cache(self) -> None:
        self.reserved = self.allocated


@contextmanager
def emulated_device(index: int, count: int) -> Iterator[Driver]:
    """Has this process see `count` GPUs of `MEMORY` bytes each; tensors are on `cuda:index`."""
    driver = Driver(count)
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        with Calls():  # calls of Python inside backward, which the mode around `backward()` does not see
            return backward(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(DeviceTensor, "home", torch.device("cuda", index)))
        stack.enter_context(patch.multiple(torch.cuda, **driver.answers()))
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda tensor, *arguments: tensor))
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", run_backward))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(Calls())
        yield driver
