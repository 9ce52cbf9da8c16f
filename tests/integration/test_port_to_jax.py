"""The tutorial about JAX: its port has the printed mistakes, and each printed correction removes one."""

import json
import re
import sys
from pathlib import Path

import pytest
from tests.common.commands import ROOT, run

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe

PAGE = (ROOT / "docs" / "port-to-jax.md").read_text(encoding="utf-8")
PORT, ADAPTER = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)
CORRECTIONS = re.findall(r"(?ms)^```diff\n(.*?)^```", PAGE)
CASES = (
    Recipe(),
    Recipe(images=((Truth("ordinary", at=(15, 0)),),), cells=(2, 5)),
    Recipe(
        images=(
            (
                Truth("huge", at=(9, 0), size=(11, 12)),
                Truth("huge", at=(14, 0), size=(10, 0)),
                Truth("huge", label=1, at=(0, 14), size=(15, 3)),
            ),
        ),
        cells=(8, 8),
        strides=(16, 32),
        classes=3,
        reg_max=2,
        seed=44607,
        streams=(124,),
    ),
)
"""Batches of the page's output, one for each correction, in this order."""


def corrected(source: str, correction: str) -> str:
    """Return a source with the lines of a correction that begin with `-` replaced by those with `+`."""
    old, new = (
        "".join(line[1:] for line in correction.splitlines(keepends=True) if line[0] == sign) for sign in "-+"
    )
    assert source.count(old) == 1, old
    return source.replace(old, new)


def test_the_corrections_apply_and_the_cases_are_those_of_the_page():
    source = PORT
    for correction in CORRECTIONS:
        source = corrected(source, correction)
    compile(source, "jax_assigner.py", "exec")
    for recipe in CASES:
        assert f"case {recipe.build().id}" in PAGE
    assert len(CORRECTIONS) == len(CASES)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("made", range(len(CORRECTIONS) + 1))
def test_each_correction_makes_one_more_case_conform(made: int, tmp_path: Path):
    pytest.importorskip("jax")
    source = PORT
    for correction in CORRECTIONS[:made]:
        source = corrected(source, correction)
    (tmp_path / "jax_assigner.py").write_text(source, encoding="utf-8")
    (tmp_path / "jax_adapter.py").write_text(ADAPTER, encoding="utf-8")
    cases = [recipe.build() for recipe in CASES]
    for case in cases:
        case.save(tmp_path / f"{case.id}.safetensors")
    done = run(
        *(sys.executable, "-m", "tal_conformance", "replay", *(f"{case.id}.safetensors" for case in cases)),
        *("--implementation", "jax_adapter.py:JaxAssigner", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == int(made < len(CASES)), done.stderr
    outcomes = [case["outcomes"][0] for case in json.loads(done.stdout)["result"]["cases"]]
    conforming = [outcome["verdict"] in ("exact", "within_bound") for outcome in outcomes]
    assert conforming == [at < made for at in range(len(CASES))]
    for outcome, printed in zip(
        outcomes[made:], ("argmax", "on the edge", "wrong owner")[made:], strict=True
    ):
        assert printed in outcome["summary"]


@pytest.mark.slow
@pytest.mark.long
def test_the_corrected_port_conforms(tmp_path: Path):
    pytest.importorskip("jax")
    source = PORT
    for correction in CORRECTIONS:
        source = corrected(source, correction)
    (tmp_path / "jax_assigner.py").write_text(source, encoding="utf-8")
    (tmp_path / "jax_adapter.py").write_text(ADAPTER, encoding="utf-8")
    done = run(
        *(sys.executable, "-m", "pytest", "--pyargs", "tal_conformance", "-p", "no:cacheprovider"),
        *("--implementation", "jax_adapter.py:JaxAssigner", "--examples", "2", "-k", "not every_image"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:]
