"""The explanation that a run prints at its end: its text, its cost, and the choices that it names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fauxmplementations.dense_port import DensePort

from tal_conformance.batches.hazards.catalogue import with_hazards
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.explanation import explain_failures, sample_of
from tal_conformance.suite.other_calls import sentence_about_calls
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.session import SessionState
from tal_reference import NEWEST
from tal_reports import Log, RunLog, read_log, terminal_table
from tal_reports.analysis.folding import causes_of

BATCHES = 8
"""Number of batches of each strategy that a run judges."""


def run_of(folder: Path, *names: str, adapter: Any = None, **choices: Any) -> SessionState:
    """Return a session that has judged `DensePort`, with changed choices, on batches of some strategies.

    Another adapter may be given instead.
    """
    implementation = implementation_from(adapter or DensePort(NEWEST, "all", **choices), "port")
    run = SessionState(RunLogWriter(RunLog.create(folder)), "1", {"cpu": "tested"}, [implementation])
    run.recorder.begin({
        "profile": "dev", "seed": "1", "command": [], "devices": run.devices, "implementations": [
            {"name": implementation.name, "version": "1", "dialect": NEWEST.name, "capabilities": ["loss"]}
        ],
    })  # fmt: skip
    for name in names:
        checker = Checker(Subject(implementation, "cpu"), run.recorder, f"test_{name}", name)
        for recipe in sample_recipes(STRATEGIES[name], BATCHES):
            checker.failed = False
            try:
                checker(recipe)
            except Failure as failure:
                run.recorder.failure(f"test_{name}", name, failure)
    return run


def explained(run: SessionState, seconds: float = 60.0) -> tuple[Log, dict[str, Any]]:
    explain_failures(run, seconds)
    run.recorder.end(1)
    log = read_log(run.folder)
    assert not log.problems.sentences()
    (line,) = log.identifications
    return log, line


@pytest.mark.slow
def test_a_choice_is_named_and_all_failures_are_one_cause(tmp_path: Path):
    log, line = explained(run_of(tmp_path, "metric", "conflict", "loss", overlap="iou"))
    assert line["sentence"].startswith(
        "It computes ultralytics-8.4.190 with plain IoU in place of CIoU in the assignment. That explains "
    )
    assert line["sentence"].endswith("nothing is left.")
    assert line["unexplained"] == 0
    assert len({failure["stage"] for failure in log.divergences}) > 1
    (cause,) = causes_of(log, log.divergences)
    assert cause.choice == "plain IoU in place of CIoU in the assignment"
    assert len(cause.lines) == len(log.divergences)


def test_no_seconds_no_search(tmp_path: Path):
    run = run_of(tmp_path, "metric", overlap="iou")
    explain_failures(run, 0)
    assert read_log(run.folder).identifications == []


def test_an_implementation_that_conforms_is_not_searched(tmp_path: Path):
    run = run_of(tmp_path, "metric")
    explain_failures(run, 20)
    assert read_log(run.folder).identifications == []


@pytest.mark.parametrize("error", [RuntimeError("a bug of the search"), KeyboardInterrupt()])
def test_an_error_of_the_search_is_a_line_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    def fail(*arguments: Any) -> None:
        raise error

    run = run_of(tmp_path, "metric", overlap="iou")
    before = (run.folder / "log.jsonl").read_bytes()
    monkeypatch.setattr("tal_conformance.suite.explanation.explain", fail)
    _, line = explained(run)
    assert (run.folder / "log.jsonl").read_bytes().startswith(before)
    assert line["problem"].startswith("the search for the cause")
    assert "sentence" not in line


def test_a_budget_that_is_used_up_is_said(tmp_path: Path):
    _, line = explained(run_of(tmp_path, "metric", overlap="iou"), seconds=0.01)
    assert not line["complete"]
    assert line["sentence"].startswith("The budget of seconds ended the search ")


def test_a_dialect_that_explains_few_failing_batches_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = NEWEST.but(edge_counts=True)
    monkeypatch.setattr(
        "tal_conformance.dialects.identification.quickly_explaining", lambda *arguments: other
    )
    log, line = explained(run_of(tmp_path, "metric", overlap="iou"))
    assert line["sentence"].startswith("No known choice explains the difference from ultralytics-8.4.190: ")
    assert [cause.choice for cause in causes_of(log, log.divergences)] == [""]


def test_only_generated_float32_batches_are_searched():
    from tal_conformance.batches.recipe import Recipe

    line = {"dtype": "float32", "verdict": "divergent", "recipe": repr(Recipe(cells=(2, 2)))}
    lines = [
        line,
        line | {"recipe": repr(Recipe(cells=(3, 3))), "dtype": "float16"},
        line | {"recipe": repr(Recipe(cells=(4, 4))), "autocast": True},
        line | {"recipe": repr(Recipe(cells=(5, 5))), "verdict": "known"},
        line | {"recipe": repr(Recipe(cells=(6, 6))), "verdict": "exact"},
        line | {"recipe": "Recipe(of tomorrow)", "verdict": "exact"},
        line | {"verdict": "exact"},
    ]
    assert sample_of(lines) == ([Recipe(cells=(2, 2))], [Recipe(cells=(6, 6))])


@pytest.mark.slow
def test_a_planted_fault_is_named_and_has_one_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tal_conformance.suite.explanation.known_faults", FAULTS.values)
    run = run_of(tmp_path, "metric", adapter=FaultyReference(FAULTS["classes_before_distances"], False))
    log, line = explained(run)
    words = 'the fault "classes before distances"'
    assert line["sentence"].startswith(f"It computes ultralytics-8.4.190 with {words}. That explains ")
    (cause,) = causes_of(log, log.divergences)
    assert cause.choice == words
    text = terminal_table(log)
    assert line["sentence"] in text
    assert "declare it" not in text


def test_failures_in_other_precisions_are_counted():
    plain = {"dtype": "float32", "test": "test_loss", "recipe": "Recipe()"}
    half = plain | {"dtype": "float16"}
    lines = [
        *[plain | {"verdict": "exact"}] * 3,
        plain | {"verdict": "inconclusive"},
        half | {"verdict": "divergent"},
        half | {"verdict": "exact"},
        half | {"dtype": "bfloat16", "autocast": True, "verdict": "error"},
        half | {"dtype": "float64", "verdict": "exact"},
    ]
    expected = (
        "It fails on 1 of 2 batches in float16 and 1 of 1 batch in bfloat16 under autocast, and on none of 3 "
        "generated batches in float32."
    )
    assert sentence_about_calls(lines).startswith(expected)
    recorded = plain | {"recipe": None, "verdict": "divergent"}
    expected = "It fails on 1 of 1 batch in float32 that were not generated."
    assert sentence_about_calls([recorded]).startswith(expected)


class WrongInDouble(DensePort):
    """A port whose results are 1 percent too large in float64."""

    def loss(self, *arguments: Any) -> Any:
        loss = super().loss(*arguments)
        if arguments[0][0].dtype != torch.float64:
            return loss
        return replace(loss, total=1.01 * loss.total, items=1.01 * loss.items)


def test_a_failure_in_float64_alone_is_described(tmp_path: Path):
    run = run_of(tmp_path, "loss", adapter=WrongInDouble(NEWEST, "all"))
    (implementation,) = run.implementations
    checker = Checker(Subject(implementation, "cpu"), run.recorder, "test_precision", "loss")
    for recipe in sample_recipes(STRATEGIES["loss"], BATCHES):
        checker.failed = False
        try:
            checker(with_hazards(recipe.build().to(dtype=torch.float64)))
        except Failure as failure:
            run.recorder.failure("test_precision", "loss", failure)
    log, line = explained(run)
    assert line["sentence"].startswith("It fails on ")
    assert "batches in float64, and on none of " in line["sentence"]
    assert any("are in float64" in shared["sentence"] for shared in line["shared"])
    assert line["sentence"] in terminal_table(log)
