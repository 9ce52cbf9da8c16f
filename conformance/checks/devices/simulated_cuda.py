"""A simulated CUDA device for machines without one: tensors that report `cuda:0` and hold their values on the CPU.

Inside a `Simulation` every tensor that is moved to or made on `cuda` is a `SimulatedTensor`: a wrapper around a CPU
tensor, with values that are bitwise those of a run on the CPU. Every operation passes `__torch_dispatch__`, which
applies PyTorch's rules about mixed devices (`device_rules`), counts synchronisations, and records the line that made
each CPU tensor. To PyTorch's C++ code the wrappers are CPU tensors, so that no CUDA driver is needed and autograd works
as usual, including backward. To Python they are on `cuda:0`.

Limits: values that the code converts to Python numbers or NumPy arrays, and back to tensors, are counted as
synchronisations only. Differences between the results of CUDA and CPU kernels, and autocast, are not simulated.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from tal_conformance.checks.devices.device_rules import INDEXING, Argument, arguments_of, forbidden
from tal_conformance.checks.devices.events import Violation, Watch, WrongDevice
from tal_conformance.checks.devices.source_lines import Origin, own_frame, own_line
from tal_conformance.checks.devices.torch_calls import (
    CONVERSIONS,
    CPU,
    DEVICE,
    FACTORIES,
    MOVES,
    Call,
    destination,
    device_of,
    name_of,
)
from tal_conformance.implementations.guards.plain_copies import TRUSTED

READS = frozenset({
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "bincount", "histc", "is_nonzero",
})  # fmt: skip
"""Operations whose result or shape the CPU needs before it continues, so that it waits for the device."""


class SimulatedTensor(Tensor):
    """A tensor on the simulated CUDA device; methods that reveal a tensor's device report `cuda:0`.

    Attributes:
        host: tensor on the CPU that holds the values.
    """

    host: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as PyTorch's documentation of subclasses does

    @staticmethod
    def __new__(cls: type["SimulatedTensor"], host: Tensor) -> "SimulatedTensor":
        """Wrap a CPU tensor, without its autograd graph."""
        wrapper: SimulatedTensor = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=CPU,
        )
        wrapper.host = host
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's stub is narrower
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an ATen operation that the simulation's own dispatch mode did not intercept."""
        return current().run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # PyTorch's stub is narrower
        """Return a text with the values and the device."""
        return f"{self.host!r} on {DEVICE}"

    def __format__(self, spec: str) -> str:
        """Format a 0-dimensional tensor as a number."""
        return format(self.item() if self.dim() == 0 else repr(self), spec)

    def __deepcopy__(self, memo: Any) -> "SimulatedTensor":
        """Return a copy with its own memory."""
        copied = SimulatedTensor(self.host.clone())
        copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # PyTorch's stub is narrower
        """The simulated device, `cuda:0`."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]  # PyTorch's stub is narrower
        """Always True."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]  # PyTorch's stub is narrower
        """Always False."""
        return False

    def get_device(self) -> int:
        """Return the index of the simulated device."""
        return 0

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Act as `Tensor.to`."""
        return current().to(self, "Tensor.to", *args, **kwargs)

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        """Act as `Tensor.cpu`."""
        return current().to(self, "Tensor.cpu", CPU, memory_format=memory_format)

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        """Act as `Tensor.cuda`."""
        return current().to(self, "Tensor.cuda", DEVICE)

    def tolist(self) -> Any:
        """Act as `Tensor.tolist`, which waits for the device."""
        current().synchronised("Tensor.tolist")
        return self.host.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Act as `Tensor.numpy`, which raises for tensors on CUDA devices."""
        if force:
            return self.detach().cpu().numpy()
        return current().fail("Tensor.numpy", "a tensor on a CUDA device has no NumPy array", TypeError)

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Act as `Tensor.__array__`, which raises for tensors on CUDA devices."""
        return current().fail("numpy.asarray", "a tensor on a CUDA device has no NumPy array", TypeError)

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]  # PyTorch's stub is narrower
        """Act as `Tensor.new_tensor`."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        return current().made(torch.tensor, (data,), {"dtype": self.dtype, "device": DEVICE} | given)


class Simulation:
    """Context manager of the simulated device. On exit all patches of PyTorch are undone.

    Attributes:
        watch: receives the events; `watching` replaces it temporarily, to separate the events of different callers.
    """

    def __init__(self) -> None:
        self.watch = Watch()
        self._origins = WeakTensorKeyDictionary()
        self._call: Call | None = None
        self._moving: torch.device | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Simulation":
        if _current:
            raise RuntimeError("cannot enter a `Simulation` inside another one: leave the first before")
        stubs: dict[str, Callable[..., Any]] = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "synchronize": lambda *_: self.synchronised("torch.cuda.synchronize"),
        }
        with contextlib.ExitStack() as stack:
            for name, stub in stubs.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, stub))
            stack.enter_context(_Operations())  # type: ignore[no-untyped-call]  # PyTorch's base class has no annotations
            stack.enter_context(_Functions())
            _current.append(self)
            stack.callback(_current.remove, self)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Record the events of the `with` block in `watch`."""
        before, self.watch = self.watch, watch
        try:
            yield
        finally:
            self.watch = before

    def origin_of(self, tensor: Tensor) -> Origin | None:
        """Return the call that made a tensor on the CPU; None if the tensor was made outside the simulation."""
        origin: Origin | None = self._origins.get(tensor)
        return origin

    # Calls from Python

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a function of PyTorch that Python code called, and record the call and its caller meanwhile."""
        name = name_of(func)
        if name in MOVES:
            tensor, *rest = args
            return self.to(tensor, name, *(MOVES[name] or rest), **kwargs)
        if name in OVERRIDDEN and isinstance(args[0], SimulatedTensor):
            return OVERRIDDEN[name](*args, **kwargs)
        if func in CONVERSIONS and args and isinstance(args[0], Tensor):
            return self.to(args[0], name, **kwargs)
        if func in FACTORIES or func in CONVERSIONS:
            return self.made(func, args, kwargs)
        target = device_of(kwargs.get("device"))
        if target is not None:
            kwargs = kwargs | {"device": CPU}
        follows = any(argument.on_device for argument in arguments_of(args, kwargs, SimulatedTensor))
        with self._calling(Call(name, own_frame(), target, follows)):
            return func(*args, **kwargs)

    def made(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """Run a function that makes a tensor: on the simulated device if the call names `cuda`, else on the CPU."""
        target = device_of(kwargs.get("device"))
        keywords = {name: value for name, value in kwargs.items() if name != "device"}
        if func is torch.tensor and isinstance(args[0], Tensor):
            requires_grad = keywords.pop("requires_grad", False)
            return self.to(args[0].detach().clone(), "torch.tensor", target, **keywords).requires_grad_(
                requires_grad
            )
        args = tree_map_only(SimulatedTensor, partial(self._numbers, name_of(func)), args)
        with self._calling(Call(name_of(func), own_frame())), torch._C.DisableTorchFunction():
            if target != DEVICE:
                made: Tensor = func(*args, **keywords)
                self._record_origins(made, [], name_of(func))
                return made
            requires_grad = keywords.pop("requires_grad", False)
            return SimulatedTensor(func(*args, **keywords)).requires_grad_(requires_grad)

    def _numbers(self, operation: str, tensor: SimulatedTensor) -> Any:
        """Return the values of a tensor as Python numbers."""
        self.synchronised(operation)
        return tensor.host.tolist()

    def to(self, tensor: Tensor, name: str, *args: Any, **kwargs: Any) -> Tensor:
        """Run `Tensor.to`, `Tensor.cpu` or `Tensor.cuda`, between the simulated device and the CPU."""
        target, others = destination(args, kwargs)
        with self._calling(Call(name, own_frame(), follows=True)), torch._C.DisableTorchFunction():
            if target is None or target == tensor.device:
                return Tensor.to(tensor, **others) if others else tensor
            others.pop("copy", None)
            self._moving = target
            try:
                moved: Tensor = torch.ops.aten._to_copy.default(tensor, **others)
            finally:
                self._moving = None
            return moved

    @contextlib.contextmanager
    def _calling(self, call: Call) -> Iterator[None]:
        before, self._call = self._call, call
        try:
            yield
        finally:
            self._call = before

    # ATen operations

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run an ATen operation on simulated tensors, CPU tensors or both."""
        arguments = arguments_of(args, kwargs, SimulatedTensor)
        call = self._call if self._call is not None and self._call.caller is own_frame() else None
        # without `call` the operation is not called by the implementation itself, but inside PyTorch
        operation = call.name if call is not None else str(func)
        self._check(func, arguments, operation)
        to_device = self._belongs_on_device(func, arguments, kwargs, call)
        self._count_events(func, arguments, kwargs, operation, to_device)
        keywords = kwargs | {"device": CPU} if kwargs.get("device") else kwargs
        result = func(
            *(_changed(value, SimulatedTensor, to_host) for value in args),
            **{name: _changed(value, SimulatedTensor, to_host) for name, value in keywords.items()},
        )
        if not to_device:
            self._record_origins(
                result, arguments, operation, moves=func.overloadpacket.__name__ in ("_to_copy", "copy_")
            )
            return result
        wrapped = _changed(result, Tensor, SimulatedTensor)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if _aliases(func) else wrapped

    def _belongs_on_device(
        self, func: Any, arguments: Sequence[Argument], kwargs: dict[str, Any], call: Call | None
    ) -> bool:
        """Return True if the result of an operation belongs on the simulated device."""
        packet = func.overloadpacket
        if self._moving is not None and packet is torch.ops.aten._to_copy:
            return self._moving == DEVICE
        if device_of(kwargs.get("device")) == DEVICE:
            return True
        if call is not None and call.target is not None and "device" in kwargs:
            return call.target == DEVICE
        if arguments:
            deciding = arguments[:1] if packet is torch.ops.aten.copy_ else arguments
            return any(argument.on_device for argument in deciding)
        return call is not None and call.follows

    def _check(self, func: Any, arguments: Sequence[Argument], operation: str) -> None:
        """Raise WrongDevice if the operation does not accept the devices of its tensors."""
        wrong = forbidden(func, arguments)
        if not wrong:
            return
        origins = [self.origin_of(argument.tensor) for argument in wrong]
        described = [
            f"{argument.name} {tuple(argument.tensor.shape)} is on the CPU"
            + (f", {origin}" if origin else "")
            for argument, origin in zip(wrong, origins, strict=True)
        ]
        problem = f"expected all tensors on {DEVICE}, but {'; '.join(described)} ({func})"
        self.fail(operation, problem, origins=tuple(origin for origin in origins if origin))

    def fail(
        self,
        operation: str,
        problem: str,
        kind: type[Exception] | None = None,
        origins: tuple[Origin, ...] = (),
    ) -> NoReturn:
        """Record a violation and raise it, as WrongDevice or as the class that PyTorch raises."""
        violation = Violation(operation, own_line(), problem, origins)
        self.watch.violations.append(violation)
        raise WrongDevice(violation) if kind is None else kind(str(violation))

    def _count_events(
        self,
        func: Any,
        arguments: Sequence[Argument],
        kwargs: dict[str, Any],
        operation: str,
        to_device: bool,
    ) -> None:
        """Count the synchronisations and transfers of an operation."""
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_") and arguments[-1].on_device != to_device:
            self._count_move(arguments[-1], operation, to_device)
        if not any(argument.on_device for argument in arguments):
            return
        if name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.synchronised(operation)
        if name in INDEXING:
            indices = [argument for argument in arguments if argument.name.startswith("argument 2, item")]
            if any(index.on_device and index.tensor.dtype in (torch.bool, torch.uint8) for index in indices):
                self.synchronised(operation)  # the number of selected elements decides the shape
            for index in indices:
                if not index.on_device:
                    self._count_move(index, operation, to_device=True)

    def _count_move(self, argument: Argument, operation: str, to_device: bool) -> None:
        """Count a move of a tensor between devices. It is a violation to move values to the CPU and back."""
        if not to_device:
            self.synchronised(operation)
            return
        self.watch.transfers[operation, own_line()] += 1
        origin = self.origin_of(argument.tensor)
        if origin is not None and origin.moved:
            problem = f"values of {DEVICE} return to the device, {origin}"
            self.watch.violations.append(Violation(operation, own_line(), problem, (origin,)))

    def synchronised(self, operation: str) -> None:
        """Count one synchronisation."""
        self.watch.synchronisations[operation, own_line()] += 1

    def _record_origins(
        self, result: Any, arguments: Sequence[Argument], operation: str, moves: bool = False
    ) -> None:
        """Record the call from which the values of the new CPU tensors in `result` come.

        If the simulation has recorded the call that made the CPU tensors in `arguments`, this call is recorded again.
        Otherwise, and if the operation moves values from the simulated device, the present call is recorded.
        """
        leaves = moves and arguments[-1].on_device
        known = [self.origin_of(argument.tensor) for argument in arguments if not argument.on_device]
        inherited = sorted((origin for origin in known if origin), key=lambda origin: not origin.moved)
        origin = inherited[0] if inherited and not leaves else Origin(operation, own_line(), moved=leaves)
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor):
                self._origins[tensor] = origin


OVERRIDDEN: dict[str, Callable[..., Any]] = {
    f"Tensor.{name}": getattr(SimulatedTensor, name)
    for name in ("tolist", "numpy", "__array__", "new_tensor")
}
"""Methods that PyTorch does not support for wrappers, replaced also for calls such as `Tensor.tolist(x)`."""
_current: list[Simulation] = []


def current() -> Simulation:
    """Return the active simulation.

    Raises:
        RuntimeError: no simulation is active.
    """
    if not _current:
        raise RuntimeError("a tensor of a simulated device was used after its simulation ended")
    return _current[0]


TRUSTED.add(SimulatedTensor)


def to_host(value: Any) -> Any:
    """Return the CPU tensor of a simulated tensor; any other value unchanged."""
    return value.host if isinstance(value, SimulatedTensor) else value


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return arguments or results of an operation with `change` applied to every tensor of class `kind`."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_changed(item, kind, change) for item in value])
    return value


class _Operations(TorchDispatchMode):
    """Dispatch mode that passes every operation to the simulation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return current().run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Function mode that passes every call of a function of PyTorch to the simulation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return current().called(func, args, kwargs or {})


@cache
def _aliases(func: Any) -> bool:
    """Return True if a result of an operation is one of its arguments, or a view of an argument."""
    return any(returned.alias_info is not None for returned in func._schema.returns)
