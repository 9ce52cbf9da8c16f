"""Shapes in type annotations: `Float[Tensor, "M A"]` is a floating-point tensor, ground truths by anchors.

The reference needs only torch. If jaxtyping is installed, shapes can be checked at run time, as in the tests; otherwise
they are documentation.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Documented:
            """Replaces the types of a missing jaxtyping: `Float[Tensor, "M A"]` is plain `Tensor`."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = _Documented

__all__ = ["Bool", "Float", "Int"]
