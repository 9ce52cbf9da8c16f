"""Commands `export` and `judge`: vectors for programs in any language, and the judging of what they computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.common.vector_outcomes import write_outcomes

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.core.batch import Batch
from tal_conformance.core.vectors import InvalidVectors, read_set
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.outcomes_folder import read_outcomes, read_program
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_conformance.mutation.vectors import VectorBatch, write_vectors
from tal_conformance.suite.vectors import NOT_GIVEN
from tal_reference import NEWEST, Hyperparameters
from tal_reports import read_log, terminal_table

BATCHES = [
    Recipe(((Truth("ordinary"), Truth("tiny")),), classes=2, predictions="near"),
    Recipe(((Truth("ordinary"),), ()), classes=3, predictions="random", seed=3),
    Recipe(((Truth("ordinary"), Truth("ordinary")),), classes=2, predictions="constant"),
    Recipe(((),), classes=2),
    Recipe(((Truth("ordinary"),),), classes=2, hyperparameters=Hyperparameters(topk=10_000)),
]
"""A usual batch, a batch with an empty image, ties, no ground truth, and k above A."""
ALONE = Recipe(
    ((Truth("ordinary"),),), classes=2, hyperparameters=Hyperparameters(alpha=2.0), predictions="near"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    drawn = [VectorBatch(recipe.build(), "loss", ("loss",)) for recipe in BATCHES]
    drawn.append(VectorBatch(ALONE.build(), "assignment", ("exponents",)))
    facts = {"task": "detect", "profile": "dev", "left_out": ["something"]}
    write_vectors(folder, drawn, NEWEST, facts, "tal-conformance 0")
    return folder


@pytest.fixture
def vectors(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "vectors"))


Judge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def judge(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Return a function that judges the folder, and returns exit status, standard output and standard error."""

    def run(*options: str) -> tuple[int, str, str]:
        status = main(["judge", str(vectors), "--report-dir", str(tmp_path / "runs"), *options])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def changed(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    """Rewrite a safetensors file after a change of its tensors and texts."""
    with safe_open(path, framework="pt") as file:
        texts = dict(file.metadata() or {})
    tensors = load_file(path)
    change(tensors, texts)
    save_file(tensors, path, texts)


def replaced(path: Path, **texts: str) -> None:
    """Rewrite a safetensors file without tensors, and with the text `vector` and the given texts alone."""
    changed(path, lambda tensors, own: (tensors.clear(), own.pop("raised", None), own.update(texts)))


def log_lines(program: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of the run log of a judged program."""
    return [json.loads(line) for line in (Path(program["run"]) / "log.jsonl").read_text().splitlines()]


def test_a_vector_says_what_is_accepted_and_why(exported: Path):
    vectors = {vector.id: vector for vector in read_set(exported).vectors}
    usual, empty, ties, nothing, invalid = (vectors[recipe.build().id] for recipe in BATCHES)
    assert [vector.result for vector in (usual, nothing, invalid)] == ["acceptable", "unique", "raises"]
    assert ties.result == "acceptable"
    assert "TIE" in ties.flags
    assert "RAISES" in invalid.flags
    assert "NO_TRUTHS" in nothing.flags
    assert "TAL-EMPTY-1" in nothing.clauses
    assert "no_gt_in_batch" in nothing.hazards
    assert vectors[ALONE.build().id].flags[-1] == "ASSIGNER_ALONE"
    assert Batch.load(exported / empty.batch.file).id == empty.id


@pytest.mark.parametrize(
    "gives",
    [("assignment", "loss", "gradients"), ("loss", "gradients"), ("assignment",), ("assignment", "loss")],
)
def test_the_reference_conforms_with_whatever_it_gives(vectors: Path, judge: Judge, gives: tuple[str, ...]):
    write_outcomes(vectors, ReferenceAdapter(), gives)
    status, out, _ = judge()
    assert status == 0, out
    assert "program" in out
    assert "conforms" in out
    for part in (
        {"assignment", "loss", "gradients"}
        - set(gives)
        - ({"gradients"} if gives == ("assignment",) else set())
    ):
        assert f"not tested: the program gives no {part}" in out
    assert "not tested: something" in out


@pytest.mark.parametrize(
    ("fields", "channels", "columns", "items", "box"),
    [
        ({"task": "obb"}, 4 * 16 + 2 + 1, 7, 4, 5),
        ({"task": "pose", "keypoints": (4, 3)}, 4 * 16 + 2 + 4 * 3, 6 + 3 * 4, 5, 4),
        (
            {"task": "segment", "prototypes": 5, "mask_ratio": 4, "prototype_ratio": 4},
            4 * 16 + 2 + 5,
            6,
            5,
            4,
        ),
    ],
    ids=["obb", "pose", "segment"],
)
def test_other_tasks_have_the_documented_shapes_and_conform(
    vectors: Path, judge: Judge, fields: dict[str, Any], channels: int, columns: int, items: int, box: int
):
    """The reference's own outcomes conform, and a wrong gradient of the task's own channel, the last one, diverges."""
    truths = (Truth("ordinary"), Truth("ordinary")), ()
    batch = Recipe(truths, classes=2, predictions="near", **fields).build()
    shutil.rmtree(vectors)
    vectors.mkdir()
    facts = {"task": batch.family.name, "profile": "dev", "left_out": []}
    write_vectors(vectors, [VectorBatch(batch, "loss", ("loss",))], NEWEST, facts, "0")
    own = write_outcomes(vectors, ReferenceAdapter())
    given = load_file(vectors / "vectors" / f"{batch.id}.safetensors")
    outcome = load_file(own / f"{batch.id}.safetensors")
    inputs = load_file(vectors / "assigner" / f"{batch.id}.safetensors")
    assert given["level.0"].shape[1] == outcome["loss.gradients.0"].shape[1] == channels
    assert given["annotations"].shape[1] == columns
    assert outcome["loss.items"].shape == (items,)
    boxes = inputs["boxes"], inputs["truth_boxes"], outcome["assignment.boxes"]
    assert {values.shape[-1] for values in boxes} == {box}
    status, out, _ = judge()
    assert status == 0, out
    changed(
        own / f"{batch.id}.safetensors", lambda tensors, _: tensors["loss.gradients.0"][:, -1].mul_(2).add_(1)
    )
    assert judge()[0] == 1


@pytest.mark.parametrize("fault", ["not_scaled_by_overlap", "gains_swapped"])
@pytest.mark.parametrize("gives", [("assignment", "loss", "gradients"), ("loss", "gradients")])
def test_a_planted_fault_is_found(vectors: Path, judge: Judge, fault: str, gives: tuple[str, ...]):
    write_outcomes(vectors, FaultyReference(FAULTS[fault], exposes_stages=False), gives)
    status, out, _ = judge("--json")
    assert status == 1
    (program,) = json.loads(out)["result"]["programs"]
    assert program["verdicts"]["divergent"]
    assert {line["kind"] for line in log_lines(program)} >= {
        "run",
        "batch",
        "divergence",
        "not_tested",
        "end",
    }


def test_a_wrong_gradient_is_found_unless_gradients_are_not_given(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())
    file = own / f"{BATCHES[0].build().id}.safetensors"
    changed(file, lambda tensors, _: tensors["loss.gradients.0"].mul_(2))
    status, out, _ = judge()
    assert status == 1
    assert "gradients" in out


def test_what_must_raise_and_returns_diverges(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())
    usual, invalid = (BATCHES[number].build().id for number in (0, 4))
    returned = load_file(own / f"{usual}.safetensors")
    changed(
        own / f"{invalid}.safetensors", lambda tensors, texts: (tensors.update(returned), texts.pop("raised"))
    )
    status, out, _ = judge()
    assert status == 1
    assert "TAL-TOPK-2" in out


def test_what_must_return_and_raises_is_an_error(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())
    replaced(own / f"{BATCHES[1].build().id}.safetensors", raised="out of luck")
    status, out, _ = judge()
    assert status == 1
    assert "out of luck" in out


def test_what_is_not_supported_is_said(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())
    replaced(own / f"{BATCHES[1].build().id}.safetensors", unsupported="two images")
    status, out, _ = judge("--json")
    assert status == 0
    (program,) = json.loads(out)["result"]["programs"]
    assert program["verdicts"]["not_supported"] == 1
    assert read_log(Path(program["run"])).batches.different == len(BATCHES) + 1


def spoil_missing(own: Path, of: str) -> str:
    (own / f"{of}.safetensors").unlink()
    return f"1 missing: {of}.safetensors"


def spoil_extra(own: Path, of: str) -> str:
    shutil.copy(own / f"{of}.safetensors", own / "0123456789ab.safetensors")
    return "1 not an outcome of these vectors: 0123456789ab.safetensors"


def spoil_truncated(own: Path, of: str) -> str:
    file = own / f"{of}.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return f"1 damaged or incomplete: {of}.safetensors"


def spoil_stale(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda _, texts: texts.update(vector="0" * 64))
    return f"1 stale: computed from another file than the vector: {of}.safetensors"


def spoil_incomplete(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda tensors, _: tensors.pop("loss.total"))
    return "missing tensors loss.total"


def spoil_unnamed(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda _, texts: texts.pop("vector"))
    return "the header has no text 'vector'"


def spoil_unknown(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda tensors, _: tensors.update(more=torch.zeros(1)))
    return "unexpected tensors more"


def spoil_raised_with_tensors(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda _, texts: texts.update(raised="out of luck"))
    return "the header has the text 'raised', and the file has 8 tensors, assignment.boxes among them"


def spoil_unsupported_with_tensors(own: Path, of: str) -> str:
    changed(own / f"{of}.safetensors", lambda _, texts: texts.update(unsupported="two images"))
    return "the header has the text 'unsupported', and the file has 8 tensors"


def spoil_raised_without_text(own: Path, of: str) -> str:
    replaced(own / f"{of}.safetensors", raised="")
    return "the header's text 'raised' is '', expected the message of the error"


def spoil_unsupported_without_text(own: Path, of: str) -> str:
    replaced(own / f"{of}.safetensors", unsupported=" ")
    return "the header's text 'unsupported' is ' ', expected the reason"


def spoil_raised_and_unsupported(own: Path, of: str) -> str:
    replaced(own / f"{of}.safetensors", raised="out of luck", unsupported="two images")
    return "expected at most one of them"


def spoil_gradients_alone(own: Path, _: str) -> str:
    rewrite(own / "implementation.json", gives=["gradients"])
    return "gradients need the loss as well"


def spoil_loss_alone(own: Path, _: str) -> str:
    rewrite(own / "implementation.json", gives=["loss"])
    return "a loss can only be judged with its assignment or its gradients"


def spoil_newer(own: Path, _: str) -> str:
    rewrite(own / "implementation.json", schema=2)
    return "upgrade this one"


def spoil_dialect(own: Path, _: str) -> str:
    rewrite(own / "implementation.json", dialect="ultralytics-8.4.19O")
    return "unknown dialect"


def spoil_description(own: Path, _: str) -> str:
    (own / "implementation.json").unlink()
    return "implementation.json does not exist"


def spoil_vector(own: Path, of: str) -> str:
    changed(own.parents[1] / "vectors" / f"{of}.safetensors", lambda tensors, _: tensors["level.0"].add_(1))
    return "1 of 12 files were changed"


def spoil_list(own: Path, _: str) -> str:
    rewrite(own.parents[1] / "vectors.json", profile="ci")
    return "the checksum does not match the content"


def spoil_all(own: Path, _: str) -> str:
    shutil.rmtree(own)
    return "no outcomes found"


def rewrite(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


SPOILS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_what_is_not_right_is_one_message_and_no_verdict(
    vectors: Path, judge: Judge, tmp_path: Path, spoil: Callable[[Path, str], str]
):
    own = write_outcomes(vectors, ReferenceAdapter())
    expected = spoil(own, BATCHES[0].build().id)
    status, out, err = judge()
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert expected in err
    assert not (tmp_path / "runs").exists()


def test_a_program_is_judged_by_the_dialect_that_it_names(vectors: Path, judge: Judge):
    write_outcomes(vectors, ReferenceAdapter(), dialect="ultralytics-8.0.6")
    assert judge()[0] == 1  # a batch without ground truths is divided by N = 0
    status, out, _ = judge("--against", NEWEST.name)
    assert status == 0, out


def test_wider_numbers_and_bytes_are_accepted(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())

    def widen(tensors: dict[str, torch.Tensor], _: dict[str, str]) -> None:
        for name, value in tensors.items():
            tensors[name] = (
                value.byte()
                if value.dtype == torch.bool
                else value.double()
                if value.is_floating_point()
                else value.int()
            )

    for file in own.glob("*.safetensors"):
        changed(file, widen)
    status, out, _ = judge()
    assert status == 0, out


NAMES = [recipe.build().id for recipe in BATCHES] + [ALONE.build().id]


@pytest.mark.parametrize(
    "supported",
    [[], NAMES[4:5], NAMES[:1], [NAMES[0], NAMES[4]]],
    ids=["nothing", "errors alone", "one vector", "one vector and errors"],
)
def test_nearly_nothing_judged_is_not_green(vectors: Path, judge: Judge, supported: list[str]):
    """Of six vectors, the program must raise on one: that it does shows nothing, and one vector shows too little."""
    own = write_outcomes(vectors, ReferenceAdapter())
    for name in set(NAMES) - set(supported):
        replaced(own / f"{name}.safetensors", unsupported="everything")
    status, out, _ = judge()
    assert status == 2
    assert " vectors are not supported" in out
    assert "inconclusive" in out
    assert "conforms" not in out


def test_a_program_may_exclude_half_of_the_vectors(vectors: Path, judge: Judge):
    own = write_outcomes(vectors, ReferenceAdapter())
    for name in NAMES[:3]:
        replaced(own / f"{name}.safetensors", unsupported="images with ground truths")
    assert judge()[0] == 0


def test_a_vector_that_must_raise_is_not_enough(vectors: Path, tmp_path: Path, judge: Judge):
    """A folder of vectors on which every program must raise shows nothing, even if none is unsupported."""
    shutil.rmtree(vectors)
    vectors.mkdir()
    facts = {"task": "detect", "profile": "dev", "left_out": []}
    write_vectors(vectors, [VectorBatch(BATCHES[4].build(), "loss", ("loss",))], NEWEST, facts, "0")
    write_outcomes(vectors, ReferenceAdapter())
    status, out, _ = judge()
    assert status == 2
    assert "conforms" not in out


def test_a_loss_without_gradients_says_so_in_terminal_and_report(vectors: Path, judge: Judge):
    """Values alone may conform: the log, the terminal and the report say what was not tested."""
    write_outcomes(vectors, ReferenceAdapter(), ("assignment", "loss"))
    status, out, _ = judge("--json")
    assert status == 0
    (program,) = json.loads(out)["result"]["programs"]
    assert NOT_GIVEN["gradients"] in {
        line["reason"] for line in log_lines(program) if line["kind"] == "not_tested"
    }
    report = Path(program["report"])
    assert NOT_GIVEN["gradients"] in report.read_text(encoding="utf-8")
    assert f"not tested: {NOT_GIVEN['gradients']}" in terminal_table(read_log(Path(program["run"])))


def test_export_wants_an_empty_folder(vectors: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(vectors)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_outcome_needs_a_regular_file(vectors: Path):
    own = write_outcomes(vectors, ReferenceAdapter())
    file = own / f"{BATCHES[0].build().id}.safetensors"
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidVectors, match="damaged or incomplete"):
        read_outcomes(read_program(own), read_set(vectors).vectors)
