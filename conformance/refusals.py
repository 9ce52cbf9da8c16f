"""What a dialect does not know: there an implementation must refuse, and not return something else."""

from conformance.batches import Batch
from reference import Dialect, WeightsMeet


def unknown(batch: Batch, dialect: Dialect) -> tuple[str, str] | None:
    """Clause and reason why the dialect does not know such a head or such numbers; None if it does."""
    if len(batch.head.strides) == 1 and not dialect.one_level:
        return "TAL-CAND-2", f"{dialect.name} knows no head with one level"
    if batch.hyperparameters.kept is not None and not dialect.topk2:
        return "TAL-CONF-2", f"{dialect.name} knows no topk2"
    return None


def can_be_related(batch: Batch, dialect: Dialect) -> bool:
    """Whether relations between batches hold in the dialect.

    They do not where it may refuse a batch or divide by zero, or where one image's loss depends on the others'.
    """
    images = set(batch.annotations[:, 0].tolist())
    finite = dialect.score_sum_floor > 0 or len(images) == batch.images
    apart = dialect.weights_meet is WeightsMeet.OWN
    return finite and apart and unknown(batch, dialect) is None


def refusal(batch: Batch, dialect: Dialect) -> tuple[str, str] | None:
    """Clause and reason why an implementation of the dialect must raise on the batch; None if it must not.

    A batch without ground truths is none of these: official code returns before it looks at the head.
    """
    if not len(batch.annotations):
        return None
    k, anchors = batch.hyperparameters.topk, batch.anchors
    if k > anchors:
        return "TAL-TOPK-2", f"the best {k} of {anchors} anchors are asked for"
    return unknown(batch, dialect)
