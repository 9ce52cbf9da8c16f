"""Index of the faults planted in the detection task: name, violated clauses, and the stage that must report the fault.

The code of a fault is a function of the same name in another module of this package.
"""

from typing import NamedTuple

from tal_conformance.core.task import StageName


class Row(NamedTuple):
    """One row of the index.

    Attributes:
        clauses: the clauses that the fault violates, separated by spaces.
        stage: the first stage that must diverge if stages are visible.
        check: name of the check that must find the fault; "" for the check of the stage's clause.
    """

    clauses: str
    stage: str
    check: str = ""


INDEX: dict[str, Row] = {
    "columns_before_rows": Row("PRE-1", StageName.DECODE),
    "classes_before_distances": Row("PRE-1", StageName.DECODE),
    "width_and_height_exchanged": Row("PRE-2 ANN-1", StageName.DECODE),
    "size_of_the_last_level": Row("PRE-2 ANN-1", StageName.DECODE),
    "anchors_column_by_column": Row("ANC-1", StageName.DECODE),
    "anchors_at_the_corner": Row("ANC-1", StageName.DECODE),
    "most_likely_distance": Row("DEC-1", StageName.DECODE),
    "bins_from_one": Row("DEC-1", StageName.DECODE),
    "top_before_left": Row("DEC-2", StageName.DECODE),
    "distances_as_width_and_height": Row("DEC-2", StageName.DECODE),
    "centre_taken_for_corner": Row("ANN-1", StageName.DECODE),
    "truths_in_reverse": Row("ANN-2", StageName.DECODE, "annotations"),
    "truths_by_width": Row("ANN-2", StageName.DECODE, "annotations"),
    "inclusive_border": Row("TAL-CAND-1", StageName.CANDIDATES),
    "floor_of_first_stride": Row("TAL-CAND-2", StageName.CANDIDATES),
    "no_floor": Row("TAL-CAND-2", StageName.CANDIDATES),
    "only_horizontally_inside": Row("TAL-CAND-1", StageName.CANDIDATES),
    "iou_for_ciou": Row("IOU-1 TAL-MET-1", StageName.OVERLAP),
    "ciou_unclamped": Row("TAL-MET-1", StageName.OVERLAP),
    "eps_on_the_width": Row("IOU-1", StageName.GRADIENTS, "loss_of_small_boxes"),
    "overlap_in_cells": Row("IOU-3", StageName.OVERLAP),
    "box_loss_in_a_large_unit": Row("IOU-3 LOSS-BOX-1", StageName.BOX),
    "alpha_of_one": Row("TAL-MET-1", StageName.METRIC),
    "beta_of_five": Row("TAL-MET-1", StageName.METRIC),
    "alpha_and_beta_swapped": Row("TAL-MET-1", StageName.METRIC),
    "nine_for_ten": Row("TAL-TOPK-1", StageName.TOP_K),
    "eleven_for_ten": Row("TAL-TOPK-1", StageName.TOP_K),
    "zeros_do_not_compete": Row("TAL-TOPK-1", StageName.TOP_K, "zeros_compete"),
    "threshold_for_top_k": Row("TAL-TOPK-1", StageName.TOP_K),
    "k_cut_to_the_anchors": Row("TAL-TOPK-2", StageName.TOP_K, "fewer_anchors_than_k"),
    "nothing_taken_of_few_anchors": Row("TAL-TOPK-2", StageName.TOP_K, "fewer_anchors_than_k"),
    "contested_by_claimants": Row("TAL-CONF-1", StageName.CONFLICT),
    "contested_goes_to_the_first": Row("TAL-CONF-1", StageName.CONFLICT),
    "contested_stays_with_all": Row("TAL-CONF-1", StageName.CONFLICT),
    "contested_by_metric": Row("TAL-CONF-1", StageName.CONFLICT),
    "contested_by_unmasked_overlap": Row("TAL-CONF-1", StageName.CONFLICT),
    "topk2_ignored": Row("TAL-CONF-2", StageName.CONFLICT, "topk2"),
    "one_more_than_topk2": Row("TAL-CONF-2", StageName.CONFLICT, "topk2"),
    "widened_target_box": Row("TAL-CAND-2 TAL-TGT-1", StageName.TARGETS),
    "label_of_the_first": Row("TAL-TGT-1", StageName.TARGETS),
    "weights_before_conflict": Row("TAL-NORM-1", StageName.NORMALISATION),
    "clamped_for_added_eps": Row("TAL-NORM-1", StageName.NORMALISATION),
    "not_scaled_by_overlap": Row("TAL-NORM-1", StageName.NORMALISATION),
    "losing_truth_keeps_its_score": Row("TAL-TGT-1", StageName.TARGETS),
    "padding_leaks": Row("ANN-4 ANN-3", StageName.CANDIDATES, "small_boxes"),
    "negative_sum_kept": Row("ANN-3 ANN-4", StageName.CANDIDATES, "annotations"),
    "every_row_counts": Row("ANN-3", StageName.CANDIDATES, "annotations"),
    "empty_image_scores": Row("TAL-EMPTY-1", StageName.NORMALISATION, "no_ground_truth"),
    "empty_image_is_foreground": Row("TAL-EMPTY-1", StageName.TARGETS, "no_ground_truth"),
    "target_box_in_pixels": Row("LOSS-BOX-1", StageName.BOX),
    "iou_for_ciou_in_the_loss": Row("LOSS-BOX-1", StageName.BOX),
    "dfl_weights_swapped": Row("LOSS-DFL-1", StageName.DFL),
    "dfl_clamped_late": Row("LOSS-DFL-1", StageName.DFL),
    "dfl_clamp_15_99": Row("LOSS-DFL-1", StageName.DFL, "loss_of_large_boxes"),
    "dfl_clamp_15_99_in_the_gradient": Row(
        "LOSS-DFL-1 LOSS-GRAD-1", StageName.GRADIENTS, "loss_of_large_boxes"
    ),
    "dfl_without_gradient_at_the_clamp": Row("LOSS-DFL-1", StageName.GRADIENTS),
    "score_sum_not_clamped": Row("LOSS-SUM-1", StageName.CLS),
    "score_sum_an_image": Row("LOSS-SUM-1", StageName.CLS),
    "mean_cross_entropy": Row("LOSS-CLS-1", StageName.CLS),
    "cross_entropy_of_positives": Row("LOSS-CLS-1", StageName.CLS),
    "gains_swapped": Row("LOSS-GAIN-1", StageName.CLS),
    "missing_batch_size": Row("LOSS-GAIN-1", StageName.TOTAL),
    "alpha_differentiated": Row("IOU-2", StageName.GRADIENTS),
    "shape_penalty_without_gradient": Row("IOU-2", StageName.GRADIENTS),
    "assignment_not_detached": Row("LOSS-GRAD-1 TAL-NORM-1", StageName.GRADIENTS),
}
"""Every planted fault by its name, in the order of the stages."""
