"""The recorded batches that come with the project: they load, and are what they are said to be."""

import torch

from tal_conformance.batches.hazards import hazards_of
from tal_conformance.batches.recorded import shipped
from tal_conformance.core.batch import Batch
from tal_conformance.suite.coverage import REACHED_BY

BATCHES = {path: Batch.load(path) for path in shipped()}
MOST = 300_000
"""Bytes that all of them may have."""


def test_they_are_small():
    assert 0 < sum(path.stat().st_size for path in BATCHES) < MOST


def test_their_names_are_those_of_their_content():
    assert [path.stem.rpartition("-")[2] for path in BATCHES] == [batch.id for batch in BATCHES.values()]


def test_their_hazards_are_what_they_contain():
    for batch in BATCHES.values():
        assert batch.hazards == hazards_of(batch)


def test_they_say_where_they_come_from():
    assert all(batch.origin.startswith("recorded: ultralytics 8.4.190, ") for batch in BATCHES.values())
    reasons = " ".join(batch.origin for batch in BATCHES.values())
    for reason in ("first", "no GT", "most GTs", "smallest GT", "largest loss"):
        assert reason in reasons


def test_what_a_training_meets_is_among_them():
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


def test_two_were_received_under_mixed_precision():
    mixed = [batch for batch in BATCHES.values() if batch.autocast]
    assert [batch.dtype for batch in mixed] == [torch.bfloat16] * 2
    assert {batch.dtype for batch in BATCHES.values() if not batch.autocast} == {torch.float32}
