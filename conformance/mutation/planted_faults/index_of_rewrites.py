"""Index of planted faults of rewrites; see `index.py`."""

from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.row import Row

INDEX_OF_REWRITES: dict[str, Row] = {
    "margin_of_a_thousandth": Row("TAL-CAND-1", StageName.CANDIDATES, "borders"),
    "normalised_with_1e_8": Row("TAL-NORM-1", StageName.NORMALISATION, "conflict"),
    "metric_in_logarithms": Row("TAL-MET-1", StageName.METRIC),
    "one_class_scores_one": Row("TAL-MET-1", StageName.METRIC),
    "contested_by_the_first_two": Row("TAL-CONF-1", StageName.CONFLICT),
    "every_truth_keeps_one": Row("TAL-CONF-1", StageName.CONFLICT),
    "overlap_of_the_best_metric": Row("TAL-NORM-1", StageName.NORMALISATION),
    "truths_clipped_to_the_input": Row("ANN-1", StageName.DECODE, "annotations"),
    "rows_in_float16": Row("ANN-1", StageName.DECODE, "annotations"),
    "shape_penalty_of_large_overlaps": Row("IOU-1 TAL-MET-1", StageName.OVERLAP),
    "constant_diagonal": Row("IOU-1 IOU-2", StageName.GRADIENTS),
    "target_distances_in_float16": Row("LOSS-DFL-1", StageName.DFL),
    "probabilities_clamped": Row("LOSS-CLS-1", StageName.CLS, "trained_logits"),
    "total_of_images_with_truths": Row("LOSS-GAIN-1", StageName.TOTAL),
    "images_counted_by_the_last_row": Row("LOSS-GAIN-1", StageName.TOTAL),
    "weights_with_ten_bits": Row("LOSS-SUM-1 LOSS-CLS-1", StageName.CLS),
}
"""Planted faults of rewrites of the assigner and the loss, by name."""
