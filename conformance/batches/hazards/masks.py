"""Hazards of masks, found in a batch's content (specification section 20).

"GT" refers to real ground truths; edges of boxes are in pixels of the masks.
"""

from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.hazards.registry import hazard
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import pixel_boxes
from tal_conformance.core.task import SEGMENT, SEGMENT26

MASKS = (SEGMENT.name, SEGMENT26.name)
MANY = 255
"""Largest number of an instance that 8 bits hold."""


class MaskedContent(Content):
    """The properties of a batch of masks that the detectors need: those of detection, and the GTs' masks."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        rows = batch.annotations.detach().cpu()  # (N, 6 + h_m w_m)
        height, width = batch.head.masks or (1, 1)
        (input_height, input_width), self.mask_size = batch.size, (height, width)
        real = pixel_boxes(rows, batch.size).sum(1) > 0  # (N,)   ANN-3
        self.dropped = ~real  # (N,)
        self.every_image = rows[:, 0].long()  # (N,)
        self.masks = rows[real, 6:].unflatten(1, (height, width))  # (n, h_m, w_m)
        scale = torch.tensor((width / input_width, height / input_height)).repeat(2)  # (4,)
        self.edges = self.boxes * scale  # (n, 4)
        self.overlapping = bool(batch.head.overlapping_masks)
        self.prototypes = batch.feature_maps[-1].detach().to("cpu", torch.float32)  # (B, n, h_p, w_p)

    @cached_property
    def inside(self) -> Tensor:
        """(n, h_m, w_m) True for the pixels of a GT's box (SEG-2)."""
        left, top, right, bottom = self.edges[..., None, None].unbind(1)  # (n, 1, 1) each
        rows, columns = (torch.arange(size) for size in self.mask_size)  # (h_m,), (w_m,)
        rows = rows[:, None]  # (h_m, 1)
        return (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)


@hazard("truth", MASKS)
def gt_without_mask(content: MaskedContent) -> bool | Tensor:
    """A GT has no pixel in its mask."""
    return (content.masks.flatten(1).sum(1) == 0).any()


@hazard("truth", MASKS)
def mask_beyond_box(content: MaskedContent) -> bool | Tensor:
    """A mask has pixels outside of its GT's box, which the loss leaves out (SEG-2)."""
    return ((content.masks > 0) & ~content.inside).any()


@hazard("truth", MASKS)
def box_without_pixel(content: MaskedContent) -> bool | Tensor:
    """A box with an area holds no pixel's edge: it lies between two columns or rows, or outside of the input (F2)."""
    sides = content.edges[:, 2:] - content.edges[:, :2]  # (n, 2)
    return ((sides > 0).all(1) & ~content.inside.flatten(1).any(1)).any()


@hazard("truth", MASKS)
def thin_box_of_mask(content: MaskedContent) -> bool | Tensor:
    """A box with pixels is narrower than half a pixel of the masks: its loss is divided by a small area (F2)."""
    sides = content.edges[:, 2:] - content.edges[:, :2]  # (n, 2)
    return (content.inside.flatten(1).any(1) & (sides < 0.5).any(1)).any()


@hazard("truth", MASKS)
def masked_box_without_area(content: MaskedContent) -> bool | Tensor:
    """A GT's box has no area: its mask loss is 0 / 0 if it has a positive (SEG-3)."""
    return (content.edges[:, 2:] == content.edges[:, :2]).any()


@hazard("truth", MASKS)
def masked_box_over_first_edge(content: MaskedContent) -> bool | Tensor:
    """A box begins left of or above the input: rounded edges would count from the other end."""
    return (content.edges[:, :2] < 0).any()


@hazard("truth", MASKS)
def edge_on_mask_pixel(content: MaskedContent) -> bool | Tensor:
    """An edge of a box lies exactly on a pixel's edge (T8)."""
    return (content.edges == content.edges.round()).any()


@hazard("truth", MASKS)
def edge_between_mask_pixels(content: MaskedContent) -> bool | Tensor:
    """An edge of a box lies between two pixel edges: a crop with rounded edges has other pixels."""
    return (content.edges != content.edges.round()).any()


@hazard("truth", MASKS)
def soft_mask(content: MaskedContent) -> bool | Tensor:
    """A mask has values between 0 and 1."""
    return ((content.masks > 0) & (content.masks < 1)).any()


@hazard("truth", MASKS)
def dropped_row_before_mask(content: MaskedContent) -> bool | Tensor:
    """A row that ANN-3 drops stands before another row of its image: numbers of masks count dropped rows (SEG-IN-2)."""
    dropped = content.dropped.nonzero()[:, 0]  # (d,)
    later = torch.arange(len(content.dropped)) > dropped[:, None]  # (d, N)
    same = content.every_image == content.every_image[dropped, None]  # (d, N)
    return (later & same & ~content.dropped).any()


@hazard("", MASKS)
def instance_masks(content: MaskedContent) -> bool:
    """Masks are stored one by one, not as one picture per image."""
    return not content.overlapping


@hazard("", MASKS)
def masks_of_other_size(content: MaskedContent) -> bool:
    """The masks have another size than the prototypes, which are resized (SEG-1)."""
    return tuple(content.prototypes.shape[2:]) != content.mask_size


@hazard("", MASKS)
def one_prototype(content: MaskedContent) -> bool:
    """The head has one prototype."""
    return content.prototypes.shape[1] == 1


@hazard("candidate", MASKS)
def image_without_positive_beside_others(content: MaskedContent) -> bool:
    """An image has no GT and another one has: the first has no mask loss."""
    return 0 in content.counts and any(content.counts)


@hazard("truth", MASKS)
def more_instances_than_eight_bits(content: MaskedContent) -> bool:
    """An image has more than 255 GTs: their numbers do not fit 8 bits."""
    return max(content.counts) > MANY
