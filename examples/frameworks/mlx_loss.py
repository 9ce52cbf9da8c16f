"""The detection loss in MLX, on its default device.

pip install mlx           # on Linux: pip install 'mlx[cpu]'
pytest conformance --task detect --implementation examples/frameworks/mlx_loss.py:MlxLoss
"""

from importlib.metadata import version

import mlx.core as mx
from array_loss import ArrayLoss


class MlxLoss(ArrayLoss):
    """The loss with `mlx.core`."""

    name, version = "mlx-loss", version("mlx")
    ops = mx
    array = staticmethod(mx.array)
    value_and_grad = staticmethod(mx.value_and_grad)  # by the first result, the total
