"""Programs in other languages and frameworks compute the shipped vectors, and are judged."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.common.chromium import chromium
from tests.common.commands import ENVIRONMENT

from tal_conformance.commands import main
from tal_conformance.core.batch import Batch
from tal_conformance.core.vectors import load_inputs, read_set

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "vectors"
    assert main(["export", str(folder)]) == 0
    return folder


@pytest.fixture
def vectors(shipped: Path) -> Iterator[Path]:
    yield shipped
    shutil.rmtree(shipped / "outcomes", ignore_errors=True)


def run(*command: str | Path) -> None:
    subprocess.run(
        [str(word) for word in command], check=True, timeout=200, env=ENVIRONMENT, capture_output=True
    )


def judged(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Return exit status and the result of the only program of a folder of vectors."""
    capsys.readouterr()
    status = main(["judge", str(vectors), "--json", "--report-dir", str(tmp_path / "runs")])
    (program,) = json.loads(capsys.readouterr().out)["result"]["programs"]
    return status, program


def planted(source: Path, folder: Path, right: str, wrong: str) -> Path:
    """Copy an example with a mistake in its source, and return the copy."""
    text = source.read_text(encoding="utf-8")
    assert text.count(right) == 1, right
    copy = folder / source.name
    copy.write_text(text.replace(right, wrong), encoding="utf-8")
    return copy


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def compiled(source: Path, folder: Path) -> Path:
    run(needs("g++"), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-o", folder / "tal", source)
    return folder / "tal"


def test_numpy_conforms(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(sys.executable, EXAMPLES / "numpy" / "tal.py", vectors)
    status, program = judged(vectors, tmp_path, capsys)
    assert (status, program["gives"]) == (0, ["assignment", "loss", "gradients"])
    assert not program["verdicts"].keys() & {"divergent", "error", "inconclusive"}


@pytest.mark.long
def test_jax_conforms(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """XLA flushes subnormal numbers, some of which the vectors contain."""
    pytest.importorskip("jax")
    run(sys.executable, EXAMPLES / "jax" / "tal.py", vectors)
    status, program = judged(vectors, tmp_path, capsys)
    assert (status, program["gives"]) == (0, ["assignment", "loss", "gradients"])
    assert not program["verdicts"].keys() & {"divergent", "error", "inconclusive"}


def test_tensors_are_read_wherever_they_lie_in_a_file(tmp_path: Path):
    """A tensor whose size is not a multiple of the others' must not prevent the reader from reading those."""
    sys.path.insert(0, str(EXAMPLES / "numpy"))
    try:
        files = importlib.import_module("vector_files")
    finally:
        sys.path.remove(str(EXAMPLES / "numpy"))
    tensors = {
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.array(1.5),
    }
    files.write(tmp_path / "file.safetensors", tensors, {"vector": "0"})
    read = files.read(tmp_path / "file.safetensors")
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_cpp_conforms(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(compiled(EXAMPLES / "cpp" / "tal.cpp", tmp_path), vectors)
    status, program = judged(vectors, tmp_path, capsys)
    assert (status, program["name"]) == (0, "cpp")


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (a.value == b.value) return chain(a.value, a, .5, b, .5);", ""),
        ("const double weight = v.value /", "const double weight = 2 * v.value /"),
        ("claims > 1 && g < M", "claims > 2 && g < M"),
    ],
)
def test_mistakes_of_a_cpp_program_are_found(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str
):
    run(compiled(planted(EXAMPLES / "cpp" / "tal.cpp", tmp_path, right, wrong), tmp_path), vectors)
    status, program = judged(vectors, tmp_path, capsys)
    assert status == 1
    assert program["verdicts"]["divergent"]


def test_javascript_conforms_in_node(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(needs("node"), EXAMPLES / "javascript" / "run.mjs", vectors)
    status, program = judged(vectors, tmp_path, capsys)
    assert (status, program["gives"]) == (0, ["assignment"])


@pytest.mark.browser
def test_the_assigner_of_the_playground_conforms_in_a_browser(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The page's own assigner, in the page, on all vectors."""
    own = vectors / "outcomes" / "playground"
    own.mkdir(parents=True)
    with chromium() as browser:
        page = browser.new_page()
        page.goto((ROOT / "docs" / "playground" / "index.html").as_uri())
        for vector in read_set(vectors).vectors:
            texts, tensors = {"vector": vector.batch.sha256}, dict[str, torch.Tensor]()
            if vector.dtype != "float32" or "NOT_FINITE" in vector.flags:
                texts["unsupported"] = "neither float16 nor NaN pass through JSON"
            else:
                batch = Batch.load(vectors / vector.batch.file)
                inputs = load_inputs(vectors / vector.inputs.file, batch)
                settings = {**vector.hyperparameters, "strides": vector.head["strides"]}
                images = [
                    {
                        "scores": inputs.scores[b].tolist(),
                        "boxes": inputs.boxes[b].tolist(),
                        "anchors": inputs.anchors.tolist(),
                        "labels": inputs.labels[b, :, 0].tolist(),
                        "truths": inputs.truth_boxes[b].tolist(),
                        "real": inputs.truth_mask[b, :, 0].bool().tolist(),
                    }
                    for b in range(batch.images)
                ]
                script = (
                    "([images, settings]) => { try { return images.map((image) => TAL.assign(image, settings)"
                    ".targets); } catch (error) { return error.message; } }"
                )
                returned = page.evaluate(script, [images, settings])
                if isinstance(returned, str):
                    texts["raised"] = returned
                else:
                    tensors = target_tensors(returned, batch.head.classes)
            save_file(tensors, own / f"{vector.id}.safetensors", texts)
    about = {"schema": 1, "name": "playground", "version": "1", "gives": ["assignment"]}
    (own / "implementation.json").write_text(json.dumps(about))
    status, program = judged(vectors, tmp_path, capsys)
    assert status == 0, program
    assert program["verdicts"]["admissible"] > 1


def target_tensors(images: list[list[dict[str, Any]]], classes: int) -> dict[str, torch.Tensor]:
    """Return the targets that the page computed, as tensors of an outcome file."""

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[target[name] for target in image] for image in images], dtype=dtype)

    labels, weights = column("label", torch.int64), column("weight", torch.float32)
    scores = torch.zeros(*labels.shape, classes).scatter(2, labels[..., None], weights[..., None])
    return {
        "assignment.labels": labels,
        "assignment.truth_index": column("truth", torch.int64),
        "assignment.foreground": column("foreground", torch.bool),
        "assignment.boxes": column("box", torch.float32),
        "assignment.scores": scores,
    }
