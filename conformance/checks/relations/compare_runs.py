"""Both sides of a plan, run and compared: image by image, then their losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.checks.relations.compare_images import Comparison, ImageComparison
from tal_conformance.checks.relations.compare_losses import LossComparison
from tal_conformance.checks.relations.runs import Run
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.checks.relations.views import unchanged, view
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.errors import ImplementationFailed


def compare(plan: TransformationPlan, run: Callable[[Batch], Run], to: Comparison) -> None:
    """Compare the changed batches with their sources, into the judgement of `to`.

    Where a choice moved, the losses differ for a good reason and are not compared; the judgement then has
    `chose_differently`.
    Where the assignment is hidden, and a choice may have moved, only losses that agree have shown anything.

    Raises:
        ImplementationFailed: the implementation raised on one of them.
    """
    sources, changed = [run(batch) for batch in plan.sources], []
    for each in plan.changed:
        try:
            changed.append(run(each.batch))
        except ImplementationFailed as failed:
            raise ImplementationFailed(f"{plan.how}, it {failed.what}", failed.details) from failed
    weights = [
        torch.zeros(batch.images, batch.anchors, dtype=torch.float64, device=batch.device)
        for batch in plan.sources
    ]
    fine = settled = True
    for each, now in zip(plan.changed, changed, strict=True):
        for pair in each.pairs:
            agrees, moved, apart = compare_image(sources[pair.source], now, pair, to)
            fine, settled = fine and agrees, settled and not moved
            weights[pair.source][pair.image] = apart
        fine = no_extra_scores(each, now, to) and fine
    if fine and sources[0].outcome.loss is not None:
        if settled:
            LossComparison(to, plan, sources, changed, weights).run()
        elif sources[0].outcome.assignment is None:
            # A choice may have moved or not: losses that agree show that it did not, others show nothing.
            task = sources[0].batch.family
            loss_stages = task.stages_of("term", "total", "gradients")
            tried = Comparison(Judgement(task), to.clause, to.how)
            LossComparison(tried, plan, sources, changed, weights).run()
            settled = not tried.judgement.verdict.fails
            if settled:
                to.judgement.stages |= {name: tried.judgement.stages[name] for name in loss_stages}
    to.judgement.chose_differently = to.judgement.chose_differently or not settled


def compare_image(before: Run, now: Run, pair: Pair, to: Comparison) -> tuple[bool, bool, Tensor]:
    """Compare the assignment of one image.

    Returns:
        Whether all agrees; whether a choice moved, or may have; by how much the weights (A,) differ, or may differ.
    """
    if before.outcome.assignment is None or now.outcome.assignment is None:
        known = before.hidden_known(pair.image)
        open_choice = known is not None and known.inconclusive
        apart = (
            before.hidden_weight_errors(pair.image) + now.hidden_weight_errors(pair.here)[pair.look.anchors]
        )
        return True, open_choice, apart
    old = view(before.outcome, pair.image, unchanged(before.batch, pair.image))
    new = view(now.outcome, pair.here, pair.look)
    comparison = ImageComparison(to, before, now, pair, (old, new))
    agrees = comparison.run()
    return agrees, comparison.moved, (new.scores.double() - old.scores.double()).abs().amax(1).nan_to_num()


def no_extra_scores(changed: FollowUp, now: Run, to: Comparison) -> bool:
    """A class that no ground truth has is nobody's target."""
    if changed.extra is None or now.outcome.assignment is None:
        return True
    scores = now.outcome.assignment.scores[..., changed.extra]  # (B, A)
    name = "target score of a class that no ground truth has"
    return to.equal(
        StageName.NORMALISATION, name, scores, torch.zeros_like(scores), ("image", "anchor"), None
    )
