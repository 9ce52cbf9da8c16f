"""The metamorphic relations of every task in one table, with their clauses and meanings (sections 7 and 19)."""

from tal_conformance.checks.relations import keypoint_transformations as points
from tal_conformance.checks.relations import mask_transformations as masks
from tal_conformance.checks.relations import score_properties as scores
from tal_conformance.checks.relations import transformations as changes
from tal_conformance.checks.relations import turned_transformations as turns
from tal_conformance.checks.relations.branch_relations import OWN_RELATIONS, lifted
from tal_conformance.checks.relations.relation import NotObservable as NotObservable  # noqa: PLC0414 - callers import it here
from tal_conformance.checks.relations.relation import Relation as Relation  # noqa: PLC0414 - callers import it here
from tal_conformance.checks.relations.runs import NotApplicable as NotApplicable  # noqa: PLC0414 - callers import it here
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26

RELATIONS = {
    relation.clause: relation
    for relation in (
        Relation(
            "META-GT-PERMUTATION",
            "the order of an image's ground truths does not change the results",
            changes.permuted_truths,
        ),
        Relation(
            "META-IMAGE-PERMUTATION",
            "the order of the images does not change the results",
            changes.permuted_images,
        ),
        Relation(
            "META-PADDING",
            "padding, by another image with more ground truths or by rows that ANN-3 drops, does not change results",
            changes.more_padding,
        ),
        Relation(
            "META-SPLIT",
            "splitting a batch does not change its assignments, and its loss times N is the sum over the parts",
            changes.split,
        ),
        Relation(
            "META-MIRROR",
            "a mirrored image has mirrored targets, the same loss, and mirrored gradients",
            changes.mirrored,
        ),
        Relation(
            "META-CLASS-RENAMING",
            "renaming the classes changes only their names in the results",
            changes.renamed_classes,
        ),
        Relation(
            "META-EMPTY-IMAGE",
            "an image without ground truths only adds its cross-entropy to the loss",
            changes.empty_image,
        ),
        Relation(
            "META-UNREACHABLE-CLASS",
            "a class without ground truths only adds its cross-entropy to the loss",
            changes.unreachable_class,
        ),
        Relation(
            "META-LOGIT-SHIFT",
            "a number added to all distance logits of a side changes nothing",
            changes.shifted_logits,
        ),
        Relation(
            "META-SCORE-RANGE",
            "a target score lies in [0, 1]",
            check=scores.within_zero_and_one,
        ),
        Relation(
            "META-BEST-SCORE",
            "the target score of a ground truth's best positive is the ground truth's best overlap",
            check=scores.best_is_overlap,
        ),
    )
}
"""Every relation of detection by its clause."""
TURNED_RELATIONS = RELATIONS | {
    relation.clause: relation
    for relation in (
        Relation(
            "META-TURN-HALF",
            "a half turn of a ground truth's angle changes only the losses of its distances",
            turns.half_turned_truths,
        ),
        Relation(
            "META-TURN-SIDES",
            "exchanged sides and a quarter turn of a ground truth's angle change only the losses of its distances",
            turns.exchanged_sides,
        ),
        Relation(
            "META-TURN-FORM",
            "a half turn of all angles with opposite distances exchanged changes nothing",
            turns.half_turned_boxes,
        ),
        Relation(
            "META-TURN-SCENE",
            "a scene that is turned by 90 degrees has turned targets and equal losses",
            turns.turned_scene,
        ),
    )
}
"""Every relation of rotated boxes by its clause."""
BRANCH_RELATIONS: dict[str, Relation] = {
    relation.clause: relation for relation in (*map(lifted, RELATIONS.values()), *OWN_RELATIONS)
}
"""Every relation of end-to-end heads by its clause: those of detection in both branches, and their own."""
POSED_RELATIONS = RELATIONS | {
    relation.clause: relation
    for relation in (
        Relation(
            "META-POSE-INVISIBLE",
            "the place of an invisible keypoint does not matter",
            points.moved_invisible,
        ),
        Relation(
            "META-POSE-VISIBILITY",
            "visibility 1 counts as visibility 2",
            points.occluded,
        ),
        Relation(
            "META-POSE-ORDER",
            "the order of the keypoints, with that of their sigmas, does not change the results",
            points.permuted_keypoints,
        ),
    )
}
"""Every relation of poses by its clause."""
MASKED_RELATIONS = RELATIONS | {
    relation.clause: relation
    for relation in (
        Relation(
            "META-MASK-ORDER",
            "the order of the prototypes, with that of the coefficients, does not change the results",
            masks.permuted_prototypes,
        ),
        Relation(
            "META-MASK-SCALE",
            "halved prototypes with doubled coefficients do not change the loss",
            masks.scaled_prototypes,
        ),
        Relation(
            "META-MASK-OUTSIDE",
            "the pixels of a mask outside of its box do not matter",
            masks.other_masks_outside,
        ),
    )
}
"""Every relation of masks by its clause."""
RELATIONS_BY_TASK: dict[str, dict[str, Relation]] = {
    DETECT.name: RELATIONS,
    OBB.name: TURNED_RELATIONS,
    E2E.name: BRANCH_RELATIONS,
    POSE.name: POSED_RELATIONS,
    SEGMENT.name: MASKED_RELATIONS,
    POSE26.name: POSED_RELATIONS,
    SEGMENT26.name: {
        clause: relation
        for clause, relation in MASKED_RELATIONS.items()
        # true masks count outside of their boxes too, and a crop by left edges of pixels has no mirror image (S26-3)
        if clause not in ("META-MASK-OUTSIDE", "META-MIRROR")
    },
}
"""The relations of every task."""
