"""Stage "annotations": convert a data loader's rows to the ground truths of each image; the article's `ann_process`.

The article pads every image to the same number of ground truths. Here each image keeps its own number, so that padding
cannot change a result (ANN-4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_reference.shapes import Bool, Float, Int


@dataclass(frozen=True)
class GroundTruths:
    """The M ground truths of one image, in the order of their rows (ANN-2).

    Attributes:
        labels: (M,) int64 class of each ground truth.
        boxes: (M, 4) xyxy in pixels; rotated ones are (M, 5), see `tal_reference.rotated`.
    """

    labels: Int[Tensor, "M"]
    boxes: Float[Tensor, "M box"]

    @property
    def real(self) -> Bool[Tensor, "M"]:
        """Mask (M,) bool: True for real ground truths, whose corner coordinates add up to more than zero (ANN-3)."""
        return self.boxes.sum(-1) > 0

    def __len__(self) -> int:
        return len(self.labels)


def to_corners(boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """Convert normalised boxes (cx, cy, w, h) to xyxy in pixels, for an input of (height, width) pixels (ANN-1)."""
    height, width = size
    in_pixels = boxes * boxes.new_tensor((width, height, width, height))  # (N, 4)
    centre, sides = in_pixels.chunk(2, dim=1)  # (N, 2), (N, 2)
    return torch.cat((centre - sides / 2, centre + sides / 2), dim=1)  # (N, 4)


def ground_truths(annotations: Float[Tensor, "N 6"], images: int, size: tuple[int, int]) -> list[GroundTruths]:
    """Return the ground truths of each image, in a list of length `images`.

    Args:
        annotations: (N, 6) rows (image index, class, cx, cy, w, h), the last four normalised (ANN-1).
        images: number of images B in the batch.
        size: (height, width) of the input in pixels (PRE-2).

    Raises:
        ValueError: a row names an image outside the batch.
    """
    image = image_indices(annotations, images)  # (N,)
    labels, boxes = annotations[:, 1].long(), to_corners(annotations[:, 2:], size)  # (N,), (N, 4)
    return [GroundTruths(labels[image == i], boxes[image == i]) for i in range(images)]


def image_indices(annotations: Float[Tensor, "N columns"], images: int) -> Int[Tensor, "N"]:
    """Return the image index (int64) of each annotation row (ANN-1).

    Raises:
        ValueError: a row names an image outside the batch.
    """
    image = annotations[:, 0].long()  # (N,)
    if ((image < 0) | (image >= images)).any():
        found = sorted(set(image.tolist()))
        raise ValueError(f"annotation rows name images {found}, expected indices below {images}")
    return image
