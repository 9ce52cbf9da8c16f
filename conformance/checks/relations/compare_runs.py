"""Run an implementation on source and transformed batches, and compare the results: image by image, then the losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.checks.relations.compare_images import Comparison, ImageComparison
from tal_conformance.checks.relations.compare_losses import LossComparison
from tal_conformance.checks.relations.runs import NotApplicable, Run
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.checks.relations.views import unchanged, view
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.errors import ImplementationFailed


def compare(plan: TransformationPlan, run: Callable[[Batch], Run], to: Comparison) -> None:
    """Run the original and the transformed batches of `plan`, and compare the results of the former and the latter.

    If a choice that the specification leaves open is resolved differently, the losses may differ and are not compared;
    the judgement then sets `chose_differently`. If the assignment is not visible and a choice may be resolved
    differently, equal losses prove that the runs agree, and different losses prove nothing.

    Args:
        plan: the original batches (`sources`) and the transformed batches (`changed`) of a metamorphic relation.
        run: runs the implementation on a batch.
        to: receives the result of the comparison.

    Raises:
        ImplementationFailed: the implementation failed on one of the batches.
        NotApplicable: nothing tells the N of a loss that hides its assignment.
    """
    sources, changed = [run(batch) for batch in plan.sources], []
    for follow_up in plan.changed:
        try:
            changed.append(run(follow_up.batch))
        except ImplementationFailed as failed:
            raise ImplementationFailed(f"{plan.how}, it {failed.what}", failed.details) from failed
    if any(each.lacks_score_sum for each in (*sources, *changed)):
        raise NotApplicable(f"{to.clause} does not apply: no gradient of background tells the loss's N")
    weights = [
        torch.zeros(batch.images, batch.anchors, dtype=torch.float64, device=batch.device)
        for batch in plan.sources
    ]
    fine = settled = True
    for follow_up, now in zip(plan.changed, changed, strict=True):
        for pair in follow_up.pairs:
            agrees, moved, apart = compare_image(sources[pair.source], now, pair, to)
            fine, settled = fine and agrees, settled and not moved
            weights[pair.source][pair.image] = apart
        fine = no_extra_scores(follow_up, now, to) and fine
    if fine and sources[0].outcome.loss is not None:
        if settled:
            LossComparison(to, plan, sources, changed, weights).run()
        elif sources[0].outcome.assignment is None:
            # A choice may have been resolved differently. Only equal losses prove that it was not.
            task = sources[0].batch.family
            loss_stages = task.stages_of("term", "total", "gradients")
            trial = Comparison(Judgement(task), to.clause, to.how)
            LossComparison(trial, plan, sources, changed, weights).run()
            settled = not trial.judgement.verdict.fails
            if settled:
                to.judgement.stages |= {name: trial.judgement.stages[name] for name in loss_stages}
    to.judgement.chose_differently = to.judgement.chose_differently or not settled


def compare_image(before: Run, now: Run, pair: Pair, to: Comparison) -> tuple[bool, bool, Tensor]:
    """Compare one image's assignment in the run on the original batch with that in the run on the transformed batch.

    Args:
        before: the run on the original batch.
        now: the run on the transformed batch.
        pair: indices of the image in both batches.
        to: receives the result of the comparison.

    Returns:
        Three values: a bool, True if everything agrees; a bool, True if the two runs resolved, or may have resolved, a
        tie differently; and the actual or possible difference (A,) of the weights between the runs.
    """
    if before.outcome.assignment is None or now.outcome.assignment is None:
        known = before.ambiguity_of(pair.image)
        in_full = before.batch.family.counts_in_full
        open_choice = known is not None and (known.is_open if in_full else known.inconclusive)
        if before.leaves_foreign_open:
            open_choice = open_choice or bool(
                before.foreign[pair.image].any() | now.foreign[pair.changed_image].any()
            )
        apart = (
            before.hidden_weight_errors(pair.image)
            + now.hidden_weight_errors(pair.changed_image)[pair.mapping.anchors]
        )
        return True, open_choice, apart
    old = view(before.outcome, pair.image, unchanged(before.batch, pair.image))
    new = view(now.outcome, pair.changed_image, pair.mapping)
    comparison = ImageComparison(to, before, now, pair, (old, new))
    agrees = comparison.run()
    return agrees, comparison.moved, (new.scores.double() - old.scores.double()).abs().amax(1).nan_to_num()


def no_extra_scores(changed: FollowUp, now: Run, to: Comparison) -> bool:
    """Check that all target scores of the added class, which has no ground truths, are 0. Return True if they are."""
    if changed.extra is None or now.outcome.assignment is None:
        return True
    scores = now.outcome.assignment.scores[..., changed.extra]  # (B, A)
    name = "target score of a class that no ground truth has"
    return to.equal(
        StageName.NORMALISATION, name, scores, torch.zeros_like(scores), ("image", "anchor"), None
    )
