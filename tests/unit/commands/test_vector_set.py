"""The shipped set of vectors: small, reproducible, and it finds the planted faults that it claims to find."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.mutation import vector_set
from tal_conformance.mutation.planted_faults import FAULTS
from tal_conformance.mutation.vector_set import (
    FILE,
    MOST_BYTES,
    MOST_VECTORS,
    REQUIRED_SHARE,
    Candidate,
    as_fields,
    choose,
    code_digest,
    finds,
    found_by,
    from_fields,
    kill_matrix,
    shipped_vectors,
    size_of,
)

SHIPPED = json.loads(FILE.read_text(encoding="utf-8"))
SMALL = Candidate(Recipe(((Truth("ordinary"),),), classes=2, predictions="near"), "loss", ("loss",))
LARGE = Candidate(Recipe(((Truth("ordinary"),),), (20, 20), classes=2, predictions="near"), "loss", ("loss",))


def test_it_is_small_and_finds_nearly_all_planted_faults():
    candidates = [from_fields(entry) for entry in SHIPPED["vectors"]]
    assert len(candidates) <= MOST_VECTORS
    assert sum(map(size_of, candidates)) <= MOST_BYTES
    found = {fault for entry in SHIPPED["vectors"] for fault in entry["finds"]} & FAULTS.keys()
    assert len(found) >= REQUIRED_SHARE * len(FAULTS)
    assert not found & set(SHIPPED["missed"])


def test_every_machine_builds_the_same_batches():
    drawn, fields = shipped_vectors()
    assert [each.batch.id for each in drawn] == [entry["id"] for entry in fields["vectors"]]


def test_another_batch_than_the_listed_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "vectors.json"
    first = SHIPPED["vectors"][0] | {"id": "0" * 12}
    other.write_text(json.dumps(SHIPPED | {"vectors": [first]}))
    monkeypatch.setattr(vector_set, "FILE", other)
    assert main(["export", str(tmp_path / "vectors")]) == 2
    assert "expected 000000000000" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long
def test_each_fault_is_found_by_the_vectors_that_claim_it():
    """Of the vectors that claim a fault, the first one really finds it, in a program that shows no stages."""
    claims: dict[str, Candidate] = {}
    for entry in SHIPPED["vectors"]:
        for fault in entry["finds"]:
            claims.setdefault(fault, from_fields(entry))
    wrong = [
        fault
        for fault, candidate in claims.items()
        if fault in FAULTS and not finds(FAULTS[fault], candidate)
    ]
    assert wrong == []


def test_the_choice_prefers_small_batches_and_covers_every_fault_first():
    matrix = {"first": [SMALL, LARGE], "second": [LARGE]}
    chosen = choose(matrix, [SMALL, LARGE])
    assert {fault for _, faults in chosen for fault in faults} == {"first", "second"}
    assert choose({"first": [SMALL, LARGE]}, [])[0][0] == SMALL


def test_a_matrix_continues_where_it_stopped(tmp_path: Path):
    path = tmp_path / "matrix.jsonl"
    faults = [FAULTS["gains_swapped"], FAULTS["alpha_of_one"]]
    first = kill_matrix(faults[:1], [SMALL], path)
    assert first == {"gains_swapped": [SMALL]}
    line = path.read_text()
    both = kill_matrix(faults, [SMALL], path)
    assert path.read_text().startswith(line)
    assert both["gains_swapped"] == [SMALL]
    assert both.keys() == {"gains_swapped", "alpha_of_one"}


def test_a_matrix_ignores_other_code_and_other_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A fault may have been renamed or removed, and a batch may find it in old code alone."""
    path = tmp_path / "matrix.jsonl"
    fault = FAULTS["gains_swapped"]
    wrong = {"fault": fault.name, "candidates": [as_fields(LARGE)]}
    lines = [wrong, wrong | {"code": "0" * 16}, wrong | {"fault": "removed", "code": code_digest()}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"fault": "cut o\n')
    assert kill_matrix([fault], [SMALL], path) == {fault.name: [SMALL]}
    monkeypatch.setattr(
        vector_set, "found_by", lambda *arguments: pytest.fail("the matrix was not continued")
    )
    assert kill_matrix([fault], [SMALL], path) == {fault.name: [SMALL]}


def test_code_has_a_digest(monkeypatch: pytest.MonkeyPatch):
    before = code_digest()
    assert code_digest() == before
    monkeypatch.setattr(vector_set, "source_digest", lambda: "another")
    assert code_digest() != before


@pytest.mark.parametrize(
    ("fault", "recipe", "asks"),
    [
        ("gains_swapped", SMALL.recipe, ["loss"]),
        ("alpha_of_one", Recipe(((),), classes=2), []),
    ],
    ids=["found", "not found"],
)
def test_a_batch_of_ci_is_a_candidate_only_if_its_vector_finds_the_fault(
    fault: str, recipe: Recipe, asks: list[str], monkeypatch: pytest.MonkeyPatch
):
    hit = SimpleNamespace(failure=SimpleNamespace(batch=recipe.build()))
    monkeypatch.setattr(vector_set, "attack", lambda *arguments: hit)
    assert [candidate.asks for candidate in found_by(FAULTS[fault], [])] == asks


def test_a_batch_that_shows_a_fault_in_an_assigner_alone_asks_for_an_assignment(
    monkeypatch: pytest.MonkeyPatch,
):
    hit = SimpleNamespace(failure=SimpleNamespace(batch=SMALL.batch()))
    monkeypatch.setattr(vector_set, "attack", lambda *arguments: hit)
    monkeypatch.setattr(vector_set, "finds", lambda fault, candidate: candidate.asks == "assignment")
    assert [candidate.asks for candidate in found_by(FAULTS["alpha_of_one"], [])] == ["assignment"]


@pytest.mark.parametrize(
    "options", [["--task", "obb"], ["--examples", "3"], ["--dialect", "ultralytics-8.3.253"]]
)
def test_the_set_is_of_one_task_and_dialect(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["export", str(tmp_path / "vectors"), *options]) == 2
    assert "the set is of task detect" in capsys.readouterr().err
