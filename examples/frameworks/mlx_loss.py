"""The detection loss in MLX, on its default device.

pip install mlx           # on Linux: pip install 'mlx[cpu]'
pytest conformance --task detect --implementation examples/frameworks/mlx_loss.py:MlxLoss
"""

from functools import partial
from importlib.metadata import version

try:
    import mlx.core as mx
except ModuleNotFoundError as error:
    raise ImportError("MLX is not installed: pip install mlx (on Linux 'mlx[cpu]')") from error
from array_loss import ArrayLoss, total_and_items


class MlxLoss(ArrayLoss):
    """The loss with `mlx.core`."""

    name, version = "mlx-loss", version("mlx")
    array = staticmethod(mx.array)

    def value_and_grad(self, bins):
        """Return the loss and its derivative by the maps, of the first result: the total."""
        return mx.value_and_grad(partial(total_and_items, mx, bins))
