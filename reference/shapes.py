"""Shapes in annotations: `Float[Tensor, "M A"]` reads "a floating tensor of M ground truths by A anchors".

The reference needs torch alone. If jaxtyping is installed, the shapes can be checked at run time, as the tests do;
otherwise the shapes are documentation.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Documented:
            """`Float[Tensor, "M A"]` becomes plain `Tensor`."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = _Documented

__all__ = ["Bool", "Float", "Int"]
