"""A run lists clauses and hazards that too few batches reached, and bounds far above observed errors."""

import re
from pathlib import Path

import tal_reference
from tal_conformance.batches.hazards.catalogue import HAZARDS
from tal_conformance.suite.coverage import (
    OPTIONAL,
    RARE,
    REACHED_BY,
    clause_counts,
    loose_bounds,
    missing_hazards,
)

PLENTY = dict.fromkeys(HAZARDS, 100)


def test_nothing_is_missed_where_everything_was_met():
    assert missing_hazards(PLENTY, 1000, 100) == []


def test_a_hazard_that_was_hardly_met_is_named():
    (missed,) = missing_hazards(PLENTY | {"touching": 1}, 1000, 100)
    assert missed.startswith("touching was reached on 1 of 1000 batches, fewer than the 2 ")


def test_one_batch_of_a_size_that_is_listed_is_enough():
    assert missing_hazards(PLENTY | {"logits_above_2_24": 1}, 1000, 100) == []
    (missed,) = missing_hazards(PLENTY | {"logits_above_2_24": 0}, 1000, 100)
    assert missed.startswith("logits_above_2_24 was reached on 0 of 1000 batches, fewer than the 1 ")


def test_a_clause_whose_hazards_were_hardly_met_is_named_too():
    missed = missing_hazards(PLENTY | {"negative_sum": 0}, 1000, 100)
    assert [sentence.split()[0] for sentence in missed] == ["negative_sum", "ANN-3"]


def test_near_ties_are_counted_by_the_judge():
    (missed,) = missing_hazards(PLENTY, 1000, 1)
    assert missed.startswith("T4 was reached on 1 of 1000 batches")


def test_every_clause_is_accounted_for():
    """`REACHED_BY` lists exactly the clauses that the reference cites, the ambiguities T1 to T4, and NONFINITE-1."""
    folder = Path(tal_reference.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    cited = set(re.findall(r"\b(?:PRE|ANC|DEC|ANN|IOU|(?:TAL|LOSS)-[A-Z]+)-\d\b", text))
    assert cited | {"T1", "T2", "T3", "T4", "NONFINITE-1"} == {clause.split(",")[0] for clause in REACHED_BY}


def test_every_hazard_behind_a_clause_exists():
    named = {hazard for by in REACHED_BY.values() for hazard in by if " " not in hazard}
    assert named <= set(HAZARDS)
    assert set(HAZARDS) >= OPTIONAL | RARE


def test_clauses_count_by_their_most_frequent_hazard():
    counts = clause_counts({"tiny": 3, "small_8_16": 5, "no_gt_in_batch": 10}, 50, 0)
    assert (counts["TAL-CAND-2"], counts["ANN-1"], counts["PRE-1"]) == (5, 40, 50)


def test_a_bound_that_no_error_comes_near_is_loose():
    shares = {("a", "overlap"): 0.02, ("a", "metric"): 0.3, ("a", "top-k"): 0.0}
    (said,) = loose_bounds(shares)
    assert "stage overlap stay below 0.02" in said
