"""What a detector's head looks like, and the numbers of the assigner and the loss."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """The detection head whose feature maps the loss reads (PRE-1).

    Attributes:
        strides: pixels per grid cell of each level, in the order of the feature maps.
        classes: number of classes C.
        reg_max: bins R of each side's distance distribution; with R = 1 the raw value is the distance (DEC-1).

    Raises:
        ValueError: no level, or a number that is not positive.
    """

    strides: tuple[int, ...]
    classes: int
    reg_max: int = 16

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1 or self.classes < 1 or self.reg_max < 1:
            raise ValueError(f"a head needs at least one level and positive strides, classes and reg_max: {self}")

    @property
    def channels(self) -> int:
        """Channels of every feature map: four sides of R bins, then C class logits (PRE-1)."""
        return 4 * self.reg_max + self.classes


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers of TAL-MET-1, TAL-TOPK-1, TAL-CONF-2 and LOSS-GAIN-1, with the values that the detection loss uses.

    Attributes:
        topk: anchors that each ground truth takes (k).
        alpha: exponent of the class score.
        beta: exponent of the overlap.
        topk2: anchors that each ground truth keeps after contested anchors are settled; None, and a number equal to
            `topk`, keep all (official code prunes only where the two differ).
        box_gain: weight of the CIoU loss.
        cls_gain: weight of the class loss.
        dfl_gain: weight of the distribution focal loss (L1 loss where R = 1).
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    topk2: int | None = None
    box_gain: float = 7.5
    cls_gain: float = 0.5
    dfl_gain: float = 1.5

    @property
    def effective_topk2(self) -> int | None:
        """Anchors that each ground truth keeps after contested ones are settled (TAL-CONF-2); None: all of them."""
        return None if self.topk2 == self.topk else self.topk2
