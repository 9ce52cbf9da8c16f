"""Monte Carlo arithmetic: add a random error, deliberately larger than the rounding error, to every result.

Repeated computations show how much rounding can change a result (Parker, Monte Carlo Arithmetic, 1997). A worst-case
bound is larger, because it assumes that all errors have the same sign.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ROUNDS = frozenset(
    {
        *("add", "sub", "rsub", "mul", "div", "reciprocal", "pow", "square", "sqrt", "rsqrt", "lerp"),
        *("exp", "log", "log1p", "sigmoid", "softplus", "atan", "atan2", "_softmax", "_log_softmax"),
        *("sum", "mean", "cumsum", "mv", "mm", "bmm", "dot", "addmv", "addmm", "addcmul", "addcdiv"),
        *(
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
            "scatter_add",
            "index_add",
            "index_put",
        ),
        *("sigmoid_backward", "softplus_backward", "_softmax_backward_data", "_log_softmax_backward_data"),
    }
)
"""Operations of ATen that round their result, and that occur where losses are computed and differentiated.

All other operations move, select or compare numbers, or have results that are always representable.
"""


class RoundingNoise(TorchDispatchMode):
    """Context manager that adds a relative error of `amplitude` to every result of an operation that rounds.

    Each element is changed up or down at random, identically on every device for the same seed. Operations of the
    backward pass are included.

    Attributes:
        operations: names of all operations that were run.
    """

    def __init__(self, seed: int, amplitude: float) -> None:
        """Set the seed, and the amplitude in units of the dtype's eps; correct rounding has an error of at most 0.5."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude = amplitude
        self.source = torch.Generator().manual_seed(seed)
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and add the random error to its result."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")  # `add_` is the in-place variant of `add`
        self.operations.add(name)
        return tree_map(self._moved, result) if name in ROUNDS else result

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        signs = torch.randint(0, 2, value.shape, generator=self.source).to(value) * 2 - 1
        return value.mul_(1 + signs * (self.amplitude * torch.finfo(value.dtype).eps))
