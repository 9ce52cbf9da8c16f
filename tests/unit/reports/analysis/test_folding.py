"""Folding merges failures with one cause into one card, and each cause remains visible."""

from pathlib import Path
from typing import Any

from tests.common import run_logs as factory
from tests.common.run_logs import batch, divergence, error, implementation, run_line

from tal_reports import read_log, summarise
from tal_reports.analysis.causes import CLEAR, Cause
from tal_reports.analysis.folding import causes_of, identified_in_words
from tal_reports.analysis.summary import failures_of


def states(**changed: str) -> list[dict[str, Any]]:
    """Return the states of a failure's stages as in a log line: from `changed`, and "agrees" for all other stages."""
    return [
        {"stage": name, "clause": clause, "state": changed.get(name, "agrees"), "margin": None}
        for name, clause in factory.CLAUSES.items()
    ]


def identification(*causes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    known = {"sentence": "It computes something.", "complete": True, "batches": 9, "unexplained": 0}
    return {"implementation": "my-assigner", "causes": list(causes), **known, **fields}


def explained(words: str, *lines: dict[str, Any], clause: str | None = None) -> dict[str, Any]:
    keys = ("test", "parameter", "device", "dtype", "case")
    return {
        "words": words,
        "clause": clause,
        "lines": [{key: line.get(key) for key in keys} for line in lines],
    }


def folded(run_dir: Path, *lines: dict[str, Any], found: dict[str, Any] | None = None) -> list[Cause]:
    given: list[tuple[str, Any]] = [("run", run_line([implementation("my-assigner")]))]
    given += [("divergence", line) for line in lines]
    given += [("identification", found)] if found else []
    log = read_log(factory.write(run_dir, [*given, ("end", {"exit": 1})]))
    assert not log.problems.sentences()
    return causes_of(log, failures_of(log))


def test_a_failure_follows_from_one_at_an_earlier_stage_that_its_batch_does_not_show(run_dir: Path):
    first = divergence(1, stage="overlap", stages=states(overlap="diverges"))
    later = divergence(2, stage="normalisation", stages=states(overlap="not shown", normalisation="diverges"))
    (cause,) = folded(run_dir, later, first)
    assert cause.example["stage"] == "overlap"
    assert [part.example["stage"] for part in cause.follows] == ["normalisation"]


def test_a_failure_whose_batch_shows_that_the_earlier_stage_agrees_is_a_cause_of_its_own(run_dir: Path):
    first = divergence(1, stage="overlap", stages=states(overlap="diverges"))
    later = divergence(2, stage="dfl", stages=states(dfl="diverges"))
    assert [cause.example["stage"] for cause in folded(run_dir, first, later)] == ["overlap", "dfl"]


def test_failures_at_one_stage_are_one_cause_whatever_their_clause(run_dir: Path):
    first = divergence(1, stage="candidates", clause="TAL-CAND-1")
    other = divergence(2, stage="candidates", clause="TAL-CAND-2", summary="another sentence")
    (cause,) = folded(run_dir, first, other)
    assert len(cause.lines) == 2


def test_exceptions_and_nondeterminism_stay_causes_of_their_own(run_dir: Path):
    lines = [
        divergence(1, stage="overlap", stages=states(overlap="diverges")),
        error(2, "my-assigner"),
        divergence(3, stage="gradients", verdict="nondeterministic", stages=states(overlap="not shown")),
    ]
    assert len(folded(run_dir, *lines)) == 3


def test_failures_of_two_implementations_are_not_folded(run_dir: Path):
    lines = divergence(1, stage="overlap"), divergence(2, "another", "overlap")
    assert len(folded(run_dir, *lines)) == 2


def test_what_a_choice_explains_is_one_cause_at_whatever_stages(run_dir: Path):
    lines = [divergence(1, stage="overlap"), divergence(2, stage="dfl"), divergence(3, stage="top-k")]
    found = identification(explained("plain IoU", *lines[:2]), explained("k cut", lines[2]))
    one, two = folded(run_dir, *lines, found=found)
    assert [(cause.choice, len(cause.lines)) for cause in (one, two)] == [("plain IoU", 2), ("k cut", 1)]
    assert one.id != two.id


def test_what_no_choice_explains_is_left_as_a_cause(run_dir: Path):
    lines = [divergence(1, stage="overlap"), divergence(2, stage="dfl", stages=states(dfl="diverges"))]
    left = identification(explained("plain IoU", lines[0]), unexplained=1)
    assert [cause.choice for cause in folded(run_dir, *lines, found=left)] == ["plain IoU", ""]


def test_a_failure_at_the_stage_of_a_choice_follows_only_if_the_choices_explain_everything(run_dir: Path):
    lines = [divergence(1, stage="overlap"), divergence(2, stage="overlap", dtype="float16")]
    whole = identification(explained("plain IoU", lines[0]))
    assert len(folded(run_dir, *lines, found=whole)) == 1
    left = identification(explained("plain IoU", lines[0]), unexplained=1)
    assert len(folded(run_dir.with_name("other"), *lines, found=left)) == 2


def test_the_example_is_the_smallest_failure_well_above_its_bound(run_dir: Path):
    def value(times: float) -> list[dict[str, str]]:
        shared = {"where": "anchor 1", "quantity": "u", "reference": "0.5", "bound": "1e-6"}
        return [shared | {"implementation": str(0.5 + times * 1e-6)}]

    smallest = divergence(1, description="short", values=value(CLEAR / 2))
    clear = divergence(2, description="much longer", values=value(CLEAR * 2))
    (cause,) = folded(run_dir, smallest, clear)
    assert cause.example["case"] == clear["case"]


def test_the_example_of_a_choice_is_at_the_earliest_stage_and_no_relation(run_dir: Path):
    relation = divergence(1, stage="overlap", clause="META-BEST-SCORE")
    later, first = divergence(2, stage="normalisation"), divergence(3, stage="metric")
    found = identification(explained("alpha of 1", relation, later, first))
    (cause,) = folded(run_dir, relation, later, first, found=found)
    assert (cause.example["stage"], cause.example["case"]) == ("metric", first["case"])


def test_the_example_of_a_choice_is_a_failure_of_its_clause(run_dir: Path):
    earlier = divergence(1, stage="candidates", clause="TAL-CAND-1")
    own = divergence(2, stage="metric", clause="TAL-MET-1")
    found = identification(explained("alpha and beta exchanged", earlier, own, clause="TAL-MET-1"))
    (cause,) = folded(run_dir, earlier, own, found=found)
    assert (cause.example["stage"], cause.example["case"]) == ("metric", own["case"])


def test_batches_of_all_folded_failures_are_counted(run_dir: Path):
    lines = [
        divergence(1, stage="overlap", stages=states(overlap="diverges")),
        divergence(2, stage="metric", stages=states(overlap="not shown", metric="diverges")),
    ]
    failed = [
        batch(number, "my-assigner", verdict="divergent", stage=stage, clause="TAL-MET-1")
        for number, stage in enumerate(("overlap", "overlap", "metric"))
    ]
    given: list[tuple[str, Any]] = [("run", run_line([implementation("my-assigner")]))]
    given += [("batch", line) for line in failed] + [("divergence", line) for line in lines]
    log = read_log(factory.write(run_dir, given))
    (cause,) = causes_of(log, failures_of(log))
    assert cause.batches == 3


def test_the_summary_has_the_explanation_and_what_follows(run_dir: Path):
    lines = [divergence(1, stage="overlap"), divergence(2, stage="dfl")]
    found = identification(
        explained("plain IoU", *lines),
        choices=[{"name": "overlap", "clause": "TAL-MET-1", "words": "plain IoU"}],
    )
    given: list[tuple[str, Any]] = [("run", run_line([implementation("my-assigner")]))]
    given += [("divergence", line) for line in lines] + [("identification", found)]
    (mine,) = summarise(read_log(factory.write(run_dir, given)))["implementations"]
    assert mine["identification"]["sentence"] == "It computes something."
    (cause,) = mine["first_divergences"]
    assert cause["choice"] == "plain IoU"
    assert len(cause["follows"]) == 1


FOUND: dict[str, Any] = {
    "problem": None, "dialect": "", "complete": True, "ties": [],
    "choices": [{"words": 'the fault "bins from one"'}], "unexplained": 0, "unjudged": 0,
    "sentence": "It computes ultralytics-8.4.190 with something.", "shared": [],
}  # fmt: skip
"""The `identification` of an implementation with a planted fault, as in the summary."""


def test_a_planted_fault_cannot_be_declared_and_a_choice_can():
    assert identified_in_words(FOUND) == (FOUND["sentence"], [])
    _, (line,) = identified_in_words(FOUND | {"dialect": "ultralytics-8.4.190, overlap=iou"})
    assert 'declare it in the adapter: dialect = "ultralytics-8.4.190, overlap=iou"' in line


def test_the_terminal_has_the_sharpest_property_alone_and_the_report_has_all():
    shared = [{"sentence": "It fails on 8 of 8 batches."}, {"sentence": "It fails on 7 of 9 batches."}]
    found = FOUND | {"choices": [], "unexplained": 8, "shared": shared}
    assert identified_in_words(found)[1] == [line["sentence"] for line in shared]
    assert identified_in_words(found, brief=True)[1] == [shared[0]["sentence"]]


def test_batches_that_were_not_judged_are_said_once():
    old, new = (FOUND | {"unjudged": 3, "sentence": text} for text in ("It computes.", "3 were not judged."))
    assert identified_in_words(old)[1] == ["3 batches more were not judged within the budget"]
    assert identified_in_words(new)[1] == []
