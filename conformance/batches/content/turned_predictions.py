"""Kinds of predictions that only rotated boxes have (OBB-*)."""

import math
from collections.abc import Callable

import torch

from tal_conformance.batches.content.predictions import (
    PREDICTION_KINDS,
    DesiredPrediction,
    Scene,
    near,
    within_reach,
)
from tal_conformance.batches.content.predictions import exact_hit as exact_hit_of_any

TURNED_PREDICTION_KINDS: dict[str, Callable[[Scene], DesiredPrediction]] = dict(PREDICTION_KINDS)
"""Every kind of predictions of rotated boxes by name."""


def other_form(scene: Scene) -> DesiredPrediction:
    """Return predictions as `exact_hit` does, but write the same boxes with angles changed by 0 to 3 quarter turns."""
    desired = exact_hit_of_any(scene)
    assert desired.angles is not None
    quarters = (4 * scene.uniform(scene.anchors)).floor()  # (B, A)
    left, top, right, bottom = desired.sides.unbind(-1)  # (B, A) each
    # along axes that are turned by a quarter, the box's right side lies where the bottom side was
    forms = [(left, top, right, bottom), (top, right, bottom, left)]
    forms += [(right, bottom, left, top), (bottom, left, top, right)]
    sides = torch.stack([torch.stack(form, dim=-1) for form in forms])  # (4, B, A, 4)
    chosen = sides.gather(0, quarters.long()[None, ..., None].expand(1, *desired.sides.shape))[0]
    angles = desired.angles + quarters * (math.pi / 2)
    return desired._replace(sides=within_reach(scene, chosen), angles=angles)


def many_turns(scene: Scene) -> DesiredPrediction:
    """Return predictions as `near` does, turned by up to 20 further half turns in either direction."""
    desired = near(scene)
    assert desired.angles is not None
    return desired._replace(
        angles=desired.angles + (40 * scene.uniform(scene.anchors) - 20).round() * math.pi
    )


for _kind in (other_form, many_turns):
    TURNED_PREDICTION_KINDS[_kind.__name__] = _kind
