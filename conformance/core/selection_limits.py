"""Limits on the numbers of anchors that an assigner selects for a ground truth (TAL-TOPK-2)."""

from tal_reference import Dialect, Hyperparameters


def excessive_selections(hyperparameters: Hyperparameters, anchors: int, dialect: Dialect) -> dict[str, int]:
    """Return which of topk and topk2 exceed the number of anchors of an image, with the values that a dialect uses.

    A dialect may replace the values, cut them to the number of anchors, or ignore topk2: such a dialect need not raise.

    Args:
        hyperparameters: hyperparameters of one branch.
        anchors: number of anchors of one image.
        dialect: dialect of the implementation.
    """
    numbers = dialect.effective(hyperparameters, anchors)
    values = {"topk": numbers.topk, "topk2": (numbers.effective_topk2 or 0) if dialect.topk2 else 0}
    return {name: value for name, value in values.items() if value > anchors}
