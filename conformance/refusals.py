"""What a dialect does not know: there an implementation must refuse, and not return something else."""

from conformance.batches import Batch
from reference import Dialect


def refusal(batch: Batch, dialect: Dialect) -> tuple[str, str] | None:
    """Clause and reason why an implementation of the dialect must raise on the batch; None if it must not.

    A batch without ground truths is none of these: official code returns before it looks at the head.
    """
    if not len(batch.annotations):
        return None
    if len(batch.head.strides) == 1 and not dialect.one_level:
        return "TAL-CAND-2", f"{dialect.name} knows no head with one level"
    if batch.hyperparameters.kept is not None and not dialect.topk2:
        return "TAL-CONF-2", f"{dialect.name} knows no topk2"
    return None
