"""The detection head, and the hyperparameters of assigner and loss."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """The detection head whose feature maps the loss reads (PRE-1).

    Attributes:
        strides: pixels per grid cell of each level, in the order of the feature maps.
        classes: number of classes C.
        reg_max: number R of bins for each side's distance; with R = 1 the raw value is the distance (DEC-1).
        class_weights: factor of each class's cross-entropy, C numbers (`model.class_weights`, COR-7); None: 1.
        keypoints: number K of keypoints, and 2 or 3 numbers for each: x, y, and a logit of the visibility
            (POSE-IN-1); None for heads without keypoints.
        keypoint_sigmas: standard deviations of the K keypoints (`model.kpt_oks_sigmas`); None: see POSE-IN-3.
        prototypes: number n of prototypes, and of mask coefficients at every anchor (SEG-IN-1); None for heads without
            masks.
        masks: height and width of the true masks in their own pixels (SEG-IN-2); None for heads without masks.
        overlapping_masks: True if the data loader stores the masks of an image as one picture of their numbers
            (`args.overlap_mask`), False if it stores one mask per row (SEG-IN-2); None for heads without masks.
        parts_assign: True for Pose26 and Segment26 heads, whose keypoints or masks take part in the assignment (P26-3,
            S26-1); None for others.

    Raises:
        ValueError: the head has no level, a number is not positive, or the class weights are not C finite numbers of
            at least 0; or prototypes, masks and their encoding are not given together; or `parts_assign` is True
            without keypoints and masks.
    """

    strides: tuple[int, ...]
    classes: int
    reg_max: int = 16
    class_weights: tuple[float, ...] | None = None
    keypoints: tuple[int, int] | None = None
    keypoint_sigmas: tuple[float, ...] | None = None
    prototypes: int | None = None
    masks: tuple[int, int] | None = None
    overlapping_masks: bool | None = None
    parts_assign: bool | None = None

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1 or self.classes < 1 or self.reg_max < 1:
            raise ValueError(f"a head needs at least one level and positive strides, classes and reg_max; got {self}")
        if self.keypoints is not None:
            self._check_keypoints(*self.keypoints)
        self._check_masks()
        if self.parts_assign and self.keypoints is None and self.masks is None:
            raise ValueError("parts_assign is True, expected None: the head has neither keypoints nor masks")
        weights = self.class_weights
        if weights is None:
            return
        if len(weights) != self.classes or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(
                f"class_weights are {weights!r:.200}, expected {self.classes} finite numbers of at least 0, one a class"
            )

    def _check_keypoints(self, count: int, numbers: int) -> None:
        """Raise ValueError unless the keypoints and their standard deviations are possible (POSE-IN-1, POSE-IN-3)."""
        if count < 1 or numbers not in (2, 3):
            raise ValueError(f"keypoints are {self.keypoints}, expected at least 1 keypoint with 2 or 3 numbers each")
        sigmas = self.keypoint_sigmas
        if sigmas is not None and not (len(sigmas) == count and all(0 < sigma < math.inf for sigma in sigmas)):
            raise ValueError(f"keypoint_sigmas are {sigmas!r:.200}, expected {count} positive numbers, one a keypoint")

    def _check_masks(self) -> None:
        """Raise ValueError unless the head has no masks, or their number, size and encoding (SEG-IN-1, SEG-IN-2)."""
        facts = self.prototypes, self.masks, self.overlapping_masks
        if facts == (None, None, None):
            return
        if None in facts or min(self.prototypes or 0, *(self.masks or ())) < 1:
            raise ValueError(
                f"prototypes, masks and overlapping_masks are {facts}, expected a number of at least 1, a height and a"
                " width of at least 1, and a bool; or None for all three"
            )

    @property
    def channels(self) -> int:
        """Number of channels of detection: four sides of R bins, then C class logits (PRE-1); others follow them."""
        return 4 * self.reg_max + self.classes


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of TAL-MET-1, TAL-TOPK-1, TAL-CONF-2 and LOSS-GAIN-1, with the detection loss's defaults.

    Attributes:
        topk: number k of anchors that each ground truth selects.
        alpha: exponent of the class score.
        beta: exponent of the overlap.
        topk2: number of anchors that each ground truth keeps after contested anchors are resolved; None, 0, or a
            number equal to `topk` keeps all (official code prunes only if the two differ; COR-3).
        box_gain: weight of the CIoU loss.
        cls_gain: weight of the class loss.
        dfl_gain: weight of the distribution focal loss (L1 loss where R = 1).
        angle_gain: weight of the angle loss, which rotated boxes alone have (OBB-ANG-1).
        updates: number n of updates of the branch weights so far, one per finished epoch (E2E-4); only end-to-end
            losses read it.
        epochs: planned number E of epochs of the training at the time of the latest update (E2E-4); only end-to-end
            losses read it.
        pose_gain: weight of the keypoint loss (POSE-4).
        kobj_gain: weight of the loss of keypoints' visibilities (POSE-5).
        rle_gain: weight of the residual log-likelihood of keypoints (RLE-3).
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    topk2: int | None = None
    box_gain: float = 7.5
    cls_gain: float = 0.5
    dfl_gain: float = 1.5
    angle_gain: float = 1.0
    updates: int = 0
    epochs: int = 100
    pose_gain: float = 12.0
    kobj_gain: float = 1.0
    rle_gain: float = 1.0

    @property
    def effective_topk2(self) -> int | None:
        """Number of anchors that each ground truth keeps (TAL-CONF-2); None for all."""
        return None if self.topk2 in (0, self.topk) else self.topk2
