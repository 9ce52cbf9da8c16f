"""The recorded batches of this project can be loaded and have the documented properties."""

import torch

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.core.batch import Batch
from tal_conformance.suite.coverage import REACHED_BY

BATCHES = {path: Batch.load(path) for path in recorded_cases()}
MOST = 300_000
"""Largest total size in bytes."""


def test_the_files_are_small():
    assert 0 < sum(path.stat().st_size for path in BATCHES) < MOST


def test_file_names_end_with_the_id_of_the_batch():
    assert [path.stem.rpartition("-")[2] for path in BATCHES] == [batch.id for batch in BATCHES.values()]


def test_the_stored_hazards_are_those_of_the_content():
    for batch in BATCHES.values():
        assert batch.hazards == hazards_of(batch)


def test_origins_name_the_release_and_the_reason():
    assert all(batch.origin.startswith("recorded: ultralytics 8.4.190, ") for batch in BATCHES.values())
    reasons = " ".join(batch.origin for batch in BATCHES.values())
    for reason in ("first", "no GT", "most GTs", "smallest GT", "largest loss"):
        assert reason in reasons


def test_typical_hazards_of_a_training_are_among_them():
    found = set[str]().union(*(batch.hazards for batch in BATCHES.values()))
    assert {"tiny", "small_8_16", "contested_selection", "padding", "image_without_gt", "nested"} <= found
    assert {"no_gt_in_batch", "on_border", "many_candidates", "zero_at_k", "no_overlap"} <= found
    reached = {clause for clause, by in REACHED_BY.items() if found & set(by)}
    expected = {
        "TAL-CAND-2",
        "TAL-MET-1",
        "TAL-TOPK-1",
        "TAL-CONF-1",
        "TAL-NORM-1",
        "TAL-TGT-1",
        "TAL-EMPTY-1",
    }
    assert expected <= reached


def test_two_batches_were_recorded_under_mixed_precision():
    mixed = [batch for batch in BATCHES.values() if batch.autocast]
    assert [batch.dtype for batch in mixed] == [torch.bfloat16] * 2
    assert {batch.dtype for batch in BATCHES.values() if not batch.autocast} == {torch.float32}
