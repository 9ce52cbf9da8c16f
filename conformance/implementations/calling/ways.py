"""The ways in which a trainer calls a loss or an assigner; their results must equal those of ordinary calls.

Call 0 has the batch under test; call 1 has another batch of the same shapes, for ways that make two different calls.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tal_conformance.implementations.calling.call import (
    Answer,
    Caller,
    answer_tensors,
    gradients_of,
    named_gradients,
)
from tal_conformance.implementations.calling.ranks import RANK_THREADS, in_two_processes

SCALES = (2.0, 65536.0)
"""Factors of the total: a factor other than 1, and the initial one of GradScaler. Powers of two cause no rounding."""
OFFSET = 3
"""Elements before the first tensor in a shared memory block: an odd number, so that tensors are not aligned."""
INJECTIONS = 6
"""Number of operations, spread evenly over a call, at which memory runs out."""
MOST_ANSWERS = INJECTIONS + 1
"""Maximum number of answers in one way: one for each injected out-of-memory error, and one for the call afterwards."""
Calling = Callable[[Caller], Iterator[Answer]]


@dataclass(frozen=True)
class Way:
    """One way of calling.

    Attributes:
        name: name of the way, as in the attribute `unsupported_ways` of adapters.
        clause: clause of the specification that the way tests.
        loss: function that makes the calls of a loss.
        assign: function that makes the calls of an assigner; None if the way does not apply to assigners.
        same_bits: True if torch guarantees results bitwise equal to those of an ordinary call, because the
            same operations run on the same memory layout. False if another layout, number of threads or kernel may
            round differently, within the bound of two correct runs.
        threads: number of torch's threads during the call; None for those of an ordinary call.
    """

    name: str
    clause: str
    loss: Calling
    assign: Calling | None
    same_bits: bool
    threads: int | None = None

    def keeps_bits(self) -> bool:
        """Return True if the results equal those of an ordinary call in this process bitwise.

        Another number of threads adds the parts of a large sum in another order.
        """
        return self.same_bits and self.threads in (None, torch.get_num_threads())


def scaled_gradients(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss with its total multiplied by factors and its gradients divided by them (GradScaler)."""
    for scale in SCALES:
        maps = caller.leaves()
        loss = caller.forward(maps)
        gradients = gradients_of(loss.total.sum() * scale, maps)
        divided = {name: gradient / scale for name, gradient in gradients.items()}
        yield Answer(0, f"with the total times {scale:,.0f}", answer_tensors(loss, divided))


def backward(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss with gradients that are computed by `backward()` and read from `.grad`."""
    maps = caller.leaves()
    loss = caller.forward(maps)
    loss.total.sum().backward()
    gradients = named_gradients({level: values.grad for level, values in enumerate(maps)})
    yield Answer(0, "with total.backward()", answer_tensors(loss, gradients))


def two_forwards(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss on two batches, where both losses are computed before the first backward pass."""
    maps = caller.leaves(0), caller.leaves(1)
    losses = [caller.forward(own, call) for call, own in enumerate(maps)]
    gradients = gradients_of(losses[0].total.sum() + losses[1].total.sum(), (*maps[0], *maps[1]))
    values, levels = list(gradients.values()), len(maps[0])
    for call, which in enumerate(("first", "second")):
        own = dict(enumerate(values[call * levels : (call + 1) * levels]))
        how = f"twice before one backward pass, the {which} call"
        yield Answer(call, how, answer_tensors(losses[call], named_gradients(own)))


def two_assignments(caller: Caller) -> Iterator[Answer]:
    """Yield results of the assigner on two batches; the second call must not change the first results."""
    yield Answer(0, "first of two calls", caller.assign())
    yield Answer(1, "second of two calls", caller.assign(call=1))


def retained_graph(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss with gradients that are computed twice, through a retained autograd graph."""
    maps = caller.leaves()
    loss = caller.forward(maps)
    first = gradients_of(loss.total.sum(), maps, retain_graph=True)
    yield Answer(0, "with retain_graph=True, the first backward pass", answer_tensors(loss, first))
    second = gradients_of(loss.total.sum(), maps)
    yield Answer(0, "with retain_graph=True, the second backward pass", answer_tensors(loss, second))


def frozen_maps(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss with each feature map frozen (no gradient) in turn; none for a head with one level."""
    levels = len(caller.calls[0].maps)
    for frozen in range(levels if levels > 1 else 0):
        maps = tuple(values.requires_grad_(level != frozen) for level, values in enumerate(caller.leaves()))
        yield caller.train(f"with feature map {frozen} frozen (requires_grad=False)", maps)


def channels_last(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss for feature maps in the channels-last memory format."""
    maps = tuple(
        level.detach().clone(memory_format=torch.channels_last).requires_grad_()
        for level in caller.calls[0].maps
    )
    yield caller.train("with channels-last feature maps", maps)


def every_other(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor as a view with stride two along the last dimension."""
    wide = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]))
    wide[..., ::2] = tensor
    return wide[..., ::2]


def strided_views(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss for feature maps and annotations that are non-contiguous (strided) views."""
    call = caller.calls[0]
    maps = tuple(every_other(level.detach()).requires_grad_() for level in call.maps)
    rows = every_other(call.tensors["annotations"])
    yield caller.train("with strided views of feature maps and annotations", maps, annotations=rows)


def strided_inputs(caller: Caller) -> Iterator[Answer]:
    """Yield results of the assigner for inputs that are non-contiguous (strided) views."""
    views = {name: every_other(tensor) for name, tensor in caller.calls[0].tensors.items()}
    yield Answer(0, "with strided views of its inputs", caller.assign(views))


def in_one_memory(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies that lie consecutively in one memory block, after `OFFSET` other elements."""
    memory = tensors[0].new_zeros(OFFSET + sum(tensor.numel() for tensor in tensors))
    views, begin = [], OFFSET
    for tensor in tensors:
        views.append(memory[begin : begin + tensor.numel()].view(tensor.shape).copy_(tensor.detach()))
        begin += tensor.numel()
    return views


def storage_offset(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss for feature maps, and for annotations, that lie with an offset in one memory block."""
    call = caller.calls[0]
    maps = tuple(view.detach().requires_grad_() for view in in_one_memory(list(call.maps)))
    (rows,) = in_one_memory([call.tensors["annotations"]])
    yield caller.train("with feature maps and annotations behind a storage offset", maps, annotations=rows)


def offset_inputs(caller: Caller) -> Iterator[Answer]:
    """Yield results of the assigner for inputs with a storage offset."""
    views = {name: in_one_memory([tensor])[0] for name, tensor in caller.calls[0].tensors.items()}
    yield Answer(0, "with inputs behind a storage offset", caller.assign(views))


def after(mode: Callable[[], Any], word: str) -> Calling:
    """Return a function that calls the loss first in an autograd mode without gradients, then for training.

    `word` names the mode in messages.
    """

    def call(caller: Caller) -> Iterator[Answer]:
        with mode():
            maps = tuple(level.clone() for level in caller.calls[0].maps)
            yield Answer(0, f"under {word}", answer_tensors(caller.forward(maps), {}))
        yield caller.train(f"for training after a call under {word}")

    return call


def assigned_after(mode: Callable[[], Any], word: str) -> Calling:
    """Return a function that calls the assigner first in an autograd mode without gradients, then in the default mode.

    `word` names the mode in messages.
    """

    def call(caller: Caller) -> Iterator[Answer]:
        with mode():
            yield Answer(0, f"under {word}", caller.assign())
        yield Answer(0, f"after a call under {word}", caller.assign())

    return call


@contextmanager
def two_threads() -> Iterator[None]:
    """Set torch's number of threads to two while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch's number of threads to one while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use deterministic algorithms while the block runs; torch warns about operations that do not have any.

    torch then also fills new memory with NaN, so that reads of uninitialised memory become visible.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    # torch's own function also imports its compiler
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])


def within(*settings: tuple[Callable[[], Any], str]) -> tuple[Calling, Calling]:
    """Return two functions, which call a loss and an assigner once inside each given context manager."""

    def train(caller: Caller) -> Iterator[Answer]:
        for setting, word in settings:
            with setting():
                yield caller.train(f"with {word}")

    def assign(caller: Caller) -> Iterator[Answer]:
        for setting, word in settings:
            with setting():
                yield Answer(0, f"with {word}", caller.assign())

    return train, assign


def chained(*callings: Calling) -> Calling:
    """Return a function that yields the results of several ways of calling one after the other."""

    def call(caller: Caller) -> Iterator[Answer]:
        for calling in callings:
            yield from calling(caller)

    return call


def in_another_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, called in a new Python thread with the autograd mode and autocast of the calling thread.

    torch keeps these modes for each thread; `torch.nn.DataParallel` passes them on in the same way.
    """

    def called(*arguments: Any) -> Any:
        learns, infers = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        mixed = [
            (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            for device in ("cpu", "cuda")
        ]

        def run() -> Any:
            for device, enabled, dtype in mixed:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
            with torch.inference_mode(infers), torch.set_grad_enabled(learns):
                return function(*arguments)

        with ThreadPoolExecutor(max_workers=1) as threads:
            return threads.submit(run).result()

    return called


IN_ANOTHER_THREAD = "in another Python thread"


def beside_the_main_thread(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss, called in another Python thread."""
    yield caller.train(IN_ANOTHER_THREAD, through=in_another_thread)


def assigned_beside_the_main_thread(caller: Caller) -> Iterator[Answer]:
    """Yield results of the assigner, called in another Python thread."""
    yield Answer(0, IN_ANOTHER_THREAD, caller.assign(through=in_another_thread))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under torch.compile, traced by Dynamo with torch's own kernels (backend "eager")."""
    wrapped: Callable[..., Any] = torch.compile(function, backend="eager", dynamic=False)
    return wrapped


@contextmanager
def fresh_dynamo() -> Iterator[None]:
    """Clear Dynamo's caches before and after the block, and suppress its output."""
    import logging
    import warnings

    import torch._dynamo

    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._dynamo.reset()
        logger.setLevel(level)


def under_compile(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss under torch.compile."""
    with fresh_dynamo():
        yield caller.train('under torch.compile(backend="eager")', through=compiled)


def assigned_under_compile(caller: Caller) -> Iterator[Answer]:
    """Yield results of the assigner under torch.compile."""
    with fresh_dynamo():
        yield Answer(0, 'under torch.compile(backend="eager")', caller.assign(through=compiled))


def non_leaf_maps(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss for feature maps that are computed from leaf tensors, with gradients on the leaves."""
    leaves = caller.leaves()
    maps = tuple(leaf * 1.0 for leaf in leaves)
    loss = caller.forward(maps)
    yield Answer(
        0,
        "with feature maps that are not leaves",
        answer_tensors(loss, gradients_of(loss.total.sum(), leaves)),
    )


def grad_attribute(caller: Caller) -> Iterator[Answer]:
    """Yield results of the loss for feature maps whose `.grad` already holds the gradient of an earlier batch."""
    maps = caller.leaves()
    for values in maps:
        values.grad = torch.ones_like(values)
    yield caller.train("with feature maps that have a .grad", maps)


class CountedOperations(TorchDispatchMode):
    """Dispatch mode that counts operations, and raises `torch.OutOfMemoryError` once.

    Args:
        at: index of the operation that runs out of memory, from 0; None for no such operation.

    Attributes:
        count: number of operations so far.
        raised: True once the error was raised.
    """

    def __init__(self, at: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own class
        self.count, self.raised, self._at = 0, False, at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run the operation, or raise an out-of-memory error instead."""
        self.count += 1
        if self.count - 1 == self._at:
            self.raised = True
            raise torch.OutOfMemoryError("CUDA out of memory (injected by the conformance suite)")
        return func(*args, **(kwargs or {}))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True if the error, one of its causes or one of its contexts is torch's out-of-memory error."""
    seen = 0
    while error is not None and seen < 16:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def counted_by(operations: CountedOperations) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that counts the operations of the decorated function, without the operations of the suite."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with operations:
                return function(*arguments)

        return run

    return wrap


def train_counted(caller: Caller, how: str, operations: CountedOperations) -> Answer:
    """Call the loss, count its operations, differentiate the total, and return the results."""
    return caller.train(how, through=counted_by(operations))


def assign_counted(caller: Caller, how: str, operations: CountedOperations) -> Answer:
    """Call the assigner, count its operations, and return the results."""
    return Answer(0, how, caller.assign(through=counted_by(operations)))


def out_of_memory(run: Callable[[Caller, str, CountedOperations], Answer]) -> Calling:
    """Return a function that lets one operation of a call run out of memory, at several places, and then calls again.

    The implementation may raise the error. If the implementation returns results instead, they must equal those of an
    ordinary call. The results of the next call must be correct in any case.
    """

    def call(caller: Caller) -> Iterator[Answer]:
        counted = CountedOperations()
        run(caller, "", counted)
        places = [counted.count * (2 * number + 1) // (2 * INJECTIONS) for number in range(INJECTIONS)]
        for at in dict.fromkeys(places):
            how = f"with operation {at + 1} of {counted.count} out of memory"
            try:
                answer = run(caller, how, CountedOperations(at))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                yield answer
        yield run(caller, "after calls that ran out of memory", CountedOperations())

    return call


ON_THREADS = within((one_thread, "1 thread"), (two_threads, "2 threads"))
THREADS = (
    chained(ON_THREADS[0], beside_the_main_thread),
    chained(ON_THREADS[1], assigned_beside_the_main_thread),
)
DETERMINISTIC = within((deterministic_algorithms, "torch.use_deterministic_algorithms(True)"))
WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way("scaled-gradients", "CALL-1", scaled_gradients, None, True),
        Way("backward", "CALL-1", backward, None, True),
        Way("two-forwards", "CALL-1", two_forwards, two_assignments, True),
        Way("retained-graph", "CALL-1", retained_graph, None, True),
        Way("frozen-maps", "CALL-2", frozen_maps, None, True),
        Way("non-leaf-maps", "CALL-2", non_leaf_maps, None, True),
        Way("grad-attribute", "CALL-2", grad_attribute, None, True),
        Way("channels-last", "CALL-3", channels_last, None, False),
        Way("strided-views", "CALL-3", strided_views, strided_inputs, False),
        Way("storage-offset", "CALL-3", storage_offset, offset_inputs, False),
        Way("no-grad", "CALL-4", after(torch.no_grad, "no_grad"), assigned_after(torch.no_grad, "no_grad"), True),
        Way(
            "inference-mode", "CALL-4", after(torch.inference_mode, "inference_mode"),
            assigned_after(torch.inference_mode, "inference_mode"), True,
        ),
        Way("threads", "CALL-5", *THREADS, False),
        Way("deterministic-algorithms", "CALL-5", *DETERMINISTIC, False),
        Way("compile", "CALL-5", under_compile, assigned_under_compile, False),
        Way("out-of-memory", "CALL-6", out_of_memory(train_counted), out_of_memory(assign_counted), False),
        Way("two-processes", "CALL-7", in_two_processes, None, True, RANK_THREADS),
    )
}  # fmt: skip
"""Every way of calling by name."""
