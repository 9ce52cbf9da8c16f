"""Compare two views of one image, within the differences of two correct runs.

Choices that the specification leaves open (section 6) may be resolved differently after a transformation. The
implementation's own values tell which choices are open: a selection where its metrics are equal or closer than
rounding, an owner where its overlaps are. All values that do not depend on a differing choice must agree.

M ground truths, A anchors, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.checks.relations.ambiguity import DecidingValues, uncertain
from tal_conformance.checks.relations.overlaps import are_turned, overlap_errors
from tal_conformance.checks.relations.runs import Run
from tal_conformance.checks.relations.transformations import Pair
from tal_conformance.checks.relations.views import ImageView
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    assert_equal,
    assert_finite,
    assert_none,
    assert_within,
)
from tal_conformance.judgement.rounding.bounds import ROUNDINGS
from tal_conformance.judgement.rounding.geometry import InputErrors
from tal_reference import RotatedPredictions
from tal_reference.assignment import normalised

CELL = ("GT", "anchor")
SCORE = ("anchor", "class")
SIDE = ("anchor", "side")


class Comparison:
    """Comparison of a run on original batches with a run on transformed batches: records the result by stage.

    Args:
        judgement: receives the result.
        clause: clause of the metamorphic relation.
        how: description of the transformation, for messages.
    """

    def __init__(self, judgement: Judgement, clause: str, how: str) -> None:
        self.judgement, self.clause, self.how = judgement, clause, how

    def agrees(self, stage: str) -> None:
        """Record that all values of a stage are bitwise equal."""
        self.judgement.stages[stage].add(Agreement())

    def finite(self, stage: str, quantity: str, now: Tensor, names: Sequence[str]) -> bool:
        """Record a failure of the stage unless every value is finite. Return True if every value is finite."""
        return self._note(stage, assert_finite, Quantity(quantity, self.clause, names), now)

    def assert_within(
        self,
        stage: str,
        quantity: str,
        now: Tensor,
        before: Tensor,
        error: Tensor,
        names: Sequence[str] = (),
        image: int | None = None,
    ) -> bool:
        """Record a failure of the stage unless `now` equals `before` within `error`; return True if it does."""
        named = Quantity(quantity, self.clause, names, image)
        return self._note(stage, assert_within, named, now, Bounded(before.double(), error.double(), before))

    def equal(
        self, stage: str, quantity: str, now: Tensor, before: Tensor, names: Sequence[str], image: int | None
    ) -> bool:
        """Record a failure of the stage unless `now` equals `before` in every element; return True if it does."""
        return self._note(stage, assert_equal, Quantity(quantity, self.clause, names, image), now, before)

    def assert_none(
        self,
        stage: str,
        quantity: str,
        broken: Tensor,
        now: Tensor,
        words: tuple[str, str],
        image: int | None,
    ) -> bool:
        """Record a failure of the stage if any element of `broken` (M, A) is True; return True if all are False.

        `words` holds two texts for the message: the expected value and the problem.
        """
        expected, problem = words
        named = Quantity(quantity, self.clause, CELL, image)
        return self._note(stage, assert_none, named, broken, now, expected, problem)

    def _note(self, stage: str, check: Callable[..., Agreement], *arguments: object) -> bool:
        try:
            self.judgement.stages[stage].add(check(*arguments))
        except Mismatch as broken:
            mismatch = Mismatch(f"{self.how}, {broken.summary}", self.clause, broken.values, broken.verdict)
            self.judgement.stages[stage].fail(mismatch)
            return False
        return True


class ImageComparison:
    """Comparison of one image's results in a run on the original batch and in a run on a transformed batch.

    Args:
        comparison: receives the result.
        before: the run on the original batch.
        now: the run on the transformed batch.
        pair: indices of the image in both batches.
        views: the results of both runs for the image, in the layout of the original batch.
    """

    def __init__(
        self, comparison: Comparison, before: Run, now: Run, pair: Pair, views: tuple[ImageView, ImageView]
    ) -> None:
        self.to, self.before, self.now, self.pair = comparison, before, now, pair
        self.mapping = pair.mapping
        self.image = None if pair.source else pair.image  # messages name images of the given batch only
        self.old, self.new = views
        self.moved = False  # a choice was resolved differently, and values depend on it
        self.counts: Tensor  # (M, A) where the owner of the anchor matters; set by `owners`

    def run(self) -> bool:
        """Compare all stages of the image between the two runs, and return True if everything agrees."""
        if self.old.equals(self.new):
            for stage in self.stages():
                self.to.agrees(stage)
            return True
        if not (self.all_finite() and self.inputs()):
            return False
        if not len(self.mapping.truths):
            return self.background()
        known = self.known()
        return self.shown(known) and self.owners(known) and self.targets() and self.weights(known)

    def stages(self) -> list[str]:
        """Return the names of the assigner's stages that both runs expose."""
        decoded = [StageName.DECODE] if self.before.outcome.exposes_inputs else []
        shown = (
            [StageName.CANDIDATES, StageName.OVERLAP, StageName.METRIC, StageName.TOP_K]
            if self.old.shown
            else []
        )
        return [*decoded, *shown, StageName.CONFLICT, StageName.TARGETS, StageName.NORMALISATION]

    def all_finite(self) -> bool:
        """Return True if the image's values in the transformed run are finite; otherwise record a failure."""
        fine = self.to.finite(StageName.NORMALISATION, "target score w", self.new.scores, SCORE)
        for name in ("overlap", "metric") if self.new.shown else ():
            fine = self.to.finite(name, name, self.new.shown[name], CELL) and fine
        return fine

    def inputs(self) -> bool:
        """Compare the assigner's inputs for the image between the two runs (stage "decode")."""
        if not self.before.outcome.exposes_inputs:
            return True
        old, new, image = self.old.read, self.new.read, self.image
        before, now = self.pair.image, self.pair.changed_image
        boxes, scores = self.before.expected.decoding_errors
        boxes_now, scores_now = self.now.expected.decoding_errors
        box_error = boxes[before].amax(-1, keepdim=True)
        box_error = box_error + boxes_now[now, self.mapping.anchors].amax(-1, keepdim=True)
        if self.mapping.turn is not None:
            box_error = box_error + self.turned_predictions()
        score_error = scores[before] + scores_now[now, self.mapping.anchors][:, self.mapping.classes]
        return (
            self.to.equal(
                StageName.DECODE, "anchor centre", new["centres"], old["centres"], ("anchor", "axis"), image
            )
            and self.to.assert_within(
                StageName.DECODE,
                "predicted box",
                new["boxes"],
                old["boxes"],
                self.with_angle(box_error.expand_as(old["boxes"])),
                SIDE,
                image,
            )
            and self.to.assert_within(
                StageName.DECODE, "class score", new["scores"], old["scores"], score_error, SCORE, image
            )
            and self.to.assert_within(
                StageName.DECODE,
                "ground truth box",
                new["truths"],
                old["truths"],
                self.truth_error,
                ("GT", "side"),
                image,
            )
            and self.to.equal(StageName.DECODE, "label", new["labels"], old["labels"], ("GT",), image)
        )

    def turned_predictions(self) -> Tensor:
        """Return (A, 1) the difference in pixels of exact predictions in two forms, due to rounding of their angles."""
        before, now = self.before.expected.predictions, self.now.expected.predictions
        assert isinstance(before, RotatedPredictions)
        assert isinstance(now, RotatedPredictions)
        changed = self.mapping.boxes(now.pixels[self.pair.changed_image, self.mapping.anchors])  # (A, 5)
        return (changed - before.pixels[self.pair.image])[:, :4].abs().amax(1, keepdim=True)

    @cached_property
    def truth_error(self) -> Tensor:
        """Return the possible difference (M, 4) in pixels between both runs' edges of the ground truths."""
        now = self.now.truth_errors(self.pair.changed_image)[self.mapping.truths]
        errors = self.before.truth_errors(self.pair.image) + now.amax(-1, keepdim=True)
        return self.with_angle(errors.amax(-1, keepdim=True).expand_as(errors))

    def with_angle(self, errors: Tensor) -> Tensor:
        """Return the errors (.., 5) of rotated boxes with the error of the angle; others unchanged.

        Angles are read, not computed (OBB-DEC-1), so that they differ by the rounding of a change of their form alone.
        """
        if not are_turned(errors):
            return errors
        turn = self.mapping.turn
        angle = errors.new_full((), 0.0 if turn is None else turn.rounding)
        return torch.cat((errors[..., :4], angle.expand_as(errors[..., 4:])), dim=-1)

    def background(self) -> bool:
        """Compare an image without ground truths: neither run may have positives or nonzero target scores."""
        before, now = self.old, self.new
        fine = self.to.equal(
            StageName.TARGETS, "foreground", now.foreground, before.foreground, ("anchor",), self.image
        )
        return fine and self.to.equal(
            StageName.NORMALISATION, "target score w", now.scores, before.scores, SCORE, self.image
        )

    @cached_property
    def moved_inputs(self) -> InputErrors:
        """Return the differences of the assigner's inputs between the two runs."""
        old, new = self.old.read, self.new.read
        return InputErrors(
            (new["boxes"] - old["boxes"]).abs().amax(-1),
            (new["scores"].double() - old["scores"].double()).abs(),
            (new["truths"] - old["truths"]).abs(),
        )

    def known(self) -> DecidingValues:
        """Return the values that decide the assignment, with their possible differences between the two runs."""
        before = self.before.oracle(self.pair.image, self.moved_inputs)
        now = self.now.oracle(self.pair.changed_image)
        of_overlap = of_metric = torch.zeros_like(before.overlap)  # (M, A) twice
        if self.mapping.turn is not None:  # what the rounding of the changed angles does to the exact values
            of_overlap = (self.mapping.pairs(now.overlap) - before.overlap).abs()
            of_metric = (self.mapping.pairs(now.metric) - before.metric).abs()
        deciding = replace(
            DecidingValues.of(before, self.old.read, self.before.batch.hyperparameters),
            doubtful=uncertain(before) | self.mapping.pairs(uncertain(now)),
            overlap_error=before.overlap_error + self.mapping.pairs(now.overlap_error) + of_overlap,
            metric_error=before.metric_error + self.mapping.pairs(now.metric_error) + of_metric,
        )
        return deciding.from_stages(self.old.shown, self.new.shown) if self.old.shown else deciding

    def shown(self, known: DecidingValues) -> bool:
        """Compare the exposed stages "candidates" to "top-k" between the two runs."""
        old, new = self.old.shown, self.new.shown
        if not old:
            return True
        sure, both = ~known.doubtful, old["candidates"] & new["candidates"] & known.possible
        fine = self.to.equal(
            StageName.CANDIDATES,
            "candidate",
            new["candidates"] & sure,
            old["candidates"] & sure,
            CELL,
            self.image,
        )
        for name, quantity, error in (
            (StageName.OVERLAP, "overlap u", known.overlap_error),
            (StageName.METRIC, "metric t", known.metric_error),
        ):
            now, before = new[name].where(both, 0), old[name].where(both, 0)
            fine = (
                self.to.assert_within(name, quantity, now, before, error.where(both, 0), CELL, self.image)
                and fine
            )
        settled = ~known.open_places
        now, before = new["selected"] & settled, old["selected"] & settled
        return self.to.equal(StageName.TOP_K, "selected", now, before, CELL, self.image) and fine

    def owners(self, known: DecidingValues) -> bool:
        """Compare the owners of the anchors between the two runs; only ties allow a difference (stage "conflict")."""
        old, new = self.old.positives, self.new.positives  # (M, A)
        differs = old != new
        if self.old.shown:
            before, now = self.old.shown["selected"], self.new.shown["selected"]
            places, contested = before != now, (before | now).sum(0) > 1  # (M, A), (A,)
        else:
            places, contested = known.open_places, known.selection.may.sum(0) > 1
        choices = places.any(0) | (known.tied_owners & contested)  # (M, A)
        foreign = weighs = torch.zeros_like(differs)  # (M, A) twice
        if differs.any() and not self.old.shown:
            foreign = (
                self.foreign_choices(known) | self.own_ties(known) | self.tied_at_another_k(known, differs)
            )
            weighs = self.foreign_overlaps(known)
        allowed = choices | known.kept_otherwise(choices) | foreign
        self.counts = known.counts | foreign | weighs
        in_full = self.before.batch.family.counts_in_full  # positives of weight 0 too (COR-2)
        self.moved = bool((differs if in_full else differs & self.counts).any())
        words = "the same owner", "the owner of an anchor changed, although no choice is open"
        return self.to.assert_none(StageName.CONFLICT, "owner", differs & ~allowed, new, words, self.image)

    def tied_at_another_k(self, known: DecidingValues, differs: Tensor) -> Tensor:
        """Return (M, A) bool: pairs whose owner changed between anchors of equal metric t, at any rank (T1).

        Ranks other than k count too, because an implementation with another k violates TAL-TOPK-1, but no relation.
        """
        free = torch.zeros_like(differs)  # (M, A)
        for positives in (self.old.positives, self.new.positives):
            truth, anchor = (differs & positives).nonzero(as_tuple=True)  # (P,) twice
            apart = (known.metric[truth] - known.metric[truth, anchor][:, None]).abs()  # (P, A)
            near = apart <= known.metric_error[truth] + known.metric_error[truth, anchor][:, None]  # (P, A)
            partners = near & known.possible[truth] & ~positives[truth]  # (P, A)
            free[truth, anchor] |= partners.any(1)
        return free

    def foreign_choices(self, known: DecidingValues) -> Tensor:
        """Return (M, A) bool: changed pairs that are tied by the implementation's values, but not by the judge's (T1).

        The judge's values do not reveal the ties of a ground truth if one of its positives is not a candidate
        according to the judge, or has an overlap that differs from the judge's. A ground truth that only wins an anchor
        outside its box (TAL-CONF-1) is not included.
        """
        old, new = self.old.positives, self.new.positives  # (M, A)
        winnable = known.owners & (known.selection.may.sum(0) > 1)  # (M, A)
        candidates = (old | new) & ~known.possible & ~winnable  # (M, A)
        foreign = (candidates | self.foreign_overlaps(known)).any(1)  # (M,)
        free = torch.zeros_like(old)  # (M, A)
        for truth in foreign.nonzero().flatten().tolist():
            if self.are_equal_choices(truth) or self.are_last_places(truth):
                free[truth] = old[truth] ^ new[truth]
        return free

    def changed_weights(self, truth: int) -> tuple[Tensor, Tensor]:
        """Return two sorted lists of positive weights: of the anchors that a ground truth lost, and that it gained."""
        old, new = self.old.positives[truth], self.new.positives[truth]  # (A,) twice
        lost, gained = self.old.scores.sum(1)[old & ~new], self.new.scores.sum(1)[new & ~old]
        return lost[lost > 0].sort().values, gained[gained > 0].sort().values

    def are_equal_choices(self, truth: int) -> bool:
        """Return True if a ground truth lost and gained anchors of the same weights: their metrics t are equal."""
        lost, gained = self.changed_weights(truth)
        return len(lost) == len(gained) and torch.allclose(lost, gained, rtol=self.weight_rounding, atol=0)

    def are_last_places(self, truth: int) -> bool:
        """Return True if the ground truth lost and gained only anchors with the smallest of its weights.

        These are anchors with equal metric t at the last place of the top-k. The ground truth may lose more of them
        than it gains, or fewer, if another ground truth owns an anchor that could be selected (TAL-CONF-1).
        """
        old, new = self.old.positives, self.new.positives  # (M, A)
        changed = torch.cat(self.changed_weights(truth))
        if not len(changed):
            return True
        last = changed.max() * (1 - self.weight_rounding)
        common = old[truth] & new[truth]  # (A,)
        smallest = torch.minimum(self.old.scores.sum(1), self.new.scores.sum(1))[common]
        contested = ~(old | new)[truth] & (old | new).any(0)  # (A,) another ground truth's in a run
        return bool((changed >= last).all() and (smallest >= last).all() and contested.any())

    @property
    def weight_rounding(self) -> float:
        """Return the relative difference that rounding may cause between weights w = t u* / t* of equal metric t."""
        return 4 * ROUNDINGS * self.before.eps

    def own_ties(self, known: DecidingValues) -> Tensor:
        """Return (M, A) bool: anchors whose owner changed between ground truths with equal overlap (T2).

        The overlap is the implementation's own, inferred from its weights. Only overlaps that differ from the judge's
        count, because the judge knows all other ties.
        """
        old, new = self.old.positives, self.new.positives  # (M, A)
        changed = (old & ~new).any(0) & (new & ~old).any(0)  # (A,) another owner
        before, now = self.own_overlaps(known)  # (M, A) twice
        error = 2 * self.overlap_errors  # (M, A)
        of_old, of_new = (before * old).sum(0), (now * new).sum(0)  # (A,) twice: of the owner
        allowed = torch.maximum((error * old).sum(0), (error * new).sum(0))  # (A,)
        tied = changed & self.foreign_overlaps(known).any(0) & ((of_old - of_new).abs() <= allowed)  # (A,)
        return (old | new) & tied

    def own_overlaps(self, known: DecidingValues) -> tuple[Tensor, Tensor]:
        """Return the implementation's overlap u of its positives in both runs, (M, A) each, inferred from weights."""
        before, now = (
            known.own_overlap(view.scores.sum(1).double(), self.class_scores, view.positives)
            for view in (self.old, self.new)
        )
        return before, now

    def foreign_overlaps(self, known: DecidingValues) -> Tensor:
        """Return (M, A) bool: weighted positives of either run whose own overlap u differs from the judge's."""
        views = zip(self.own_overlaps(known), (self.old, self.new), strict=True)
        before, now = (
            ((own - known.overlap).abs() > 2 * self.overlap_errors) & view.positives & (own > 0)
            for own, view in views
        )
        return before | now

    @cached_property
    def class_scores(self) -> Tensor:
        """Return (M, A) predicted scores of the class of each ground truth."""
        return self.old.read["scores"].double().T[self.old.read["labels"]]

    @cached_property
    def overlap_errors(self) -> Tensor:
        """Return a bound (M, A) on the error of any measure of overlap."""
        truths, boxes = self.old.read["truths"].double(), self.old.read["boxes"].double()
        moved = self.moved_inputs.boxes + self.moved_inputs.truths.amax(1, keepdim=True)  # (M, A)
        return overlap_errors(truths, boxes, moved, self.before.eps)

    def own_errors(self, known: DecidingValues, errors: Tensor) -> Tensor:
        """Return `errors` (A,) of the weights, enlarged if the implementation's overlap differs from the judge's.

        The overlap of an anchor counts as different if the anchor's weight differs by more than its error from the
        weight that follows from the judge's u and t. The larger error then follows from the implementation's overlap.
        """
        positives, weights = self.old.positives, self.old.scores.sum(1).double()  # (M, A), (A,)
        expected = normalised(known.metric, known.overlap, positives)  # (A,)
        differs = (weights - expected).abs() > errors  # (A,)
        if not differs.any():
            return errors
        own = known.own_weight_errors(weights, self.class_scores, self.overlap_errors, positives)  # (A,)
        return torch.maximum(errors, own).where(differs, errors)

    def targets(self) -> bool:
        """Compare label and box of every anchor that has the same owner in both runs (stage "targets")."""
        same = (self.old.owner >= 0) & (self.old.owner == self.new.owner)  # (A,)
        before, now = (each.labels.where(same, 0) for each in (self.old, self.new))
        fine = self.to.equal(StageName.TARGETS, "label", now, before, ("anchor",), self.image)
        error = self.truth_error[self.old.owner.clamp(min=0)].where(same[:, None], 0)  # (A, 4)
        before, now = (each.boxes.where(same[:, None], 0) for each in (self.old, self.new))
        return (
            self.to.assert_within(StageName.TARGETS, "target box", now, before, error, SIDE, self.image)
            and fine
        )

    def weights(self, known: DecidingValues) -> bool:
        """Compare the target scores between the two runs (stage "normalisation").

        If a ground truth's positives with possible weight differ between the runs, its anchors are left out.
        """
        old, new = self.old.positives, self.new.positives  # (M, A)
        follows = ((old != new) & self.counts).any(1, keepdim=True)  # (M, 1) from a choice that moved
        excluded = ((old | new) & follows).any(0)[:, None]  # (A, 1)
        errors = self.own_errors(known, known.weight_errors(old, self.before.dtype))  # (A,)
        at_label = torch.zeros(self.old.scores.shape, dtype=errors.dtype, device=errors.device)
        at_label.scatter_(1, self.old.labels[:, None], errors[:, None])
        now, before = self.new.scores.where(~excluded, 0), self.old.scores.where(~excluded, 0)
        return self.to.assert_within(
            StageName.NORMALISATION, "target score w", now, before, at_label, SCORE, self.image
        )
