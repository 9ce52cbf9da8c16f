"""The sentence about an identification claims no more than was found."""

from typing import Any

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands.identify import format_identification
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.identified import ChoiceEvidence, Identification
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import FAULTS
from tal_reference import NEWEST, Dialect, parse

IOU = parse("ultralytics-8.4.190, overlap=iou")
WORDS = "plain IoU in place of CIoU in the assignment"
NAMED = f"ultralytics-8.4.190 with {WORDS}. That explains"


def identification(dialect: Dialect, unexplained: int = 0, **fields: Any) -> Identification:
    """Return an identification on 10 batches, of which `unexplained` are not explained."""
    implementation = implementation_from(ReferenceAdapter(NEWEST), "mine")
    subject = Subject(implementation, "cpu")
    failure = Failure(subject, Recipe().build(), Verdict.DIVERGENT, "overlap", "TAL-MET-1", "u differs")
    choices = [ChoiceEvidence("overlap", "TAL-MET-1", WORDS, 3, None)] if dialect is IOU else []
    return Identification(
        implementation,
        NEWEST,
        dialect,
        10,
        {"TAL-MET-1": (unexplained, failure)} if unexplained else {},
        choices,
        **fields,
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (identification(IOU), f"It computes {NAMED} 10 of 10 batches; nothing is left."),
        (identification(IOU, 2), f"It is most similar to {NAMED} 8 of 10 batches; 2 are left."),
        (
            identification(IOU, complete=False),
            (
                f"It computes {NAMED} 10 of 10 batches; nothing is left; the budget of seconds ended the search for "
                "other explanations."
            ),
        ),
        (
            identification(IOU, complete=False, unjudged=3),
            f"It computes {NAMED} 10 of 13 batches; 3 were not judged for lack of time.",
        ),
        (
            identification(IOU, complete=False, unjudged=11),
            (
                f"The budget of seconds ended the search: so far, it computes {NAMED} 10 of 21 batches; 11 were not "
                "judged for lack of time."
            ),
        ),
        (
            identification(IOU, 2, complete=False, unjudged=1),
            (
                f"The budget of seconds ended the search: so far, it is most similar to {NAMED} 8 of 11 batches; 2 "
                "are left, 1 was not judged for lack of time."
            ),
        ),
        (
            identification(IOU, undecided=3, unjudged=2, fault=FAULTS["bins_from_one"]),
            (
                f"It computes {NAMED} 7 of 12 batches; 3 differ where several assignments are admissible, 2 were not "
                "judged because no results could be compared."
            ),
        ),
        (
            identification(NEWEST, 4),
            "No known choice explains the difference from ultralytics-8.4.190: 4 of 10 batches are left.",
        ),
        (
            identification(NEWEST, 4, complete=False, tried=2),
            (
                "The budget of seconds ended the search before it found what explains the difference from "
                "ultralytics-8.4.190. No choice or pair of choices explains half of the failures."
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sentences(found: Identification, sentence: str):
    assert found.sentence == sentence


@pytest.mark.parametrize(("lacking", "counts"), [(5, True), (0, False)])
def test_counts_are_printed_only_where_the_official_dialect_leaves_batches(lacking: int, counts: bool):
    text = "\n".join(format_identification(identification(IOU, unexplained_by_base=(lacking, 60))))
    assert f"TAL-MET-1: {WORDS}" in text
    assert ("ultralytics-8.4.190 alone does not explain 5 of the 60 smallest batches" in text) == counts
    assert ("this choice alone explains 3 of these 5 batches" in text) == counts
    assert " 0 of " not in text
