"""Name the loss term whose gradient is wrong, where only the total loss's gradient is known and all items agree."""

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.core.verdicts import Judgement
from tal_reference.anchors import flatten


def gradient_remark(
    judgement: Judgement,
    batch: Batch,
    field: str,
    observed: Tensor,
    wanted: Tensor,
    allowed: Tensor,
    at: tuple[Tensor, ...],
) -> str:
    """Return a sentence that names the loss term with the wrong gradient; "" if a loss item already differs.

    Class logits occur in the cross-entropy alone. A term that depends on the distance logits through the decoded
    distance d alone, as the box term does, has gradients p_j (j - d) times a factor for each side (DEC-1), with
    p the probabilities of the bins; the DFL term has other gradients (LOSS-DFL-1).

    Args:
        judgement: judgement of the earlier stages.
        batch: the batch.
        field: name of the head field, "distances" or "logits".
        observed: gradients of the implementation on the field (B, A, 4R) or (B, A, C).
        wanted: expected gradients, (P, 4R) at the positives or (B, A, C).
        allowed: tolerances, shaped like `wanted`.
        at: indices of image (P,) and anchor (P,) of the positives.
    """
    earlier = [stage for name, stage in judgement.stages.items() if name != StageName.GRADIENTS]
    if batch.task != DETECT.name or any(stage.mismatch for stage in earlier):
        return ""
    term = "cls"
    if field == "distances":
        difference = observed[at].double() - wanted.double()  # (P, 4R)
        if batch.head.reg_max == 1 or not bool((difference.abs() > allowed).any()):
            return ""
        term = "box" if follows_boxes(batch, difference, at) else "dfl"
    return f"; every item agrees, and only the gradient of the {term} term is wrong"


def follows_boxes(batch: Batch, difference: Tensor, at: tuple[Tensor, ...]) -> bool:
    """Return True if a difference of gradients (P, 4R) is that of a function of the decoded distances.

    Gradients of such a function are multiples of p_j (j - d) for each side. The result is True if the rest of the
    difference is smaller than the difference by half of the dtype's digits: rounding leaves a much smaller rest, and
    another loss term a much larger rest.
    """
    bins = torch.arange(batch.head.reg_max, dtype=torch.float64, device=batch.device)  # (R,)
    logits = flatten(batch.feature_maps, batch.head)[0][at].detach().double()  # (P, 4R)
    probabilities = logits.unflatten(-1, (4, -1)).softmax(-1)  # (P, 4, R)
    direction = probabilities * (bins - (probabilities @ bins)[..., None])
    sides = difference.unflatten(-1, (4, -1))  # (P, 4, R)
    length = direction.square().sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    rest = sides - (sides * direction).sum(-1, keepdim=True) / length * direction
    return bool(rest.norm() <= torch.finfo(batch.dtype).eps ** 0.5 * sides.norm())
