"""Command `measure`: it reports failing batches of an implementation, and measures errors on all other batches."""

import sys
from pathlib import Path

import pytest
from tests.common.commands import run

from tal_conformance.commands import main

FAILS = """
from tal_conformance.implementations.adapters.reference import ReferenceAdapter


class Fails(ReferenceAdapter):
    name = "fails"

    def loss(self, feature_maps, *arguments):
        if len(feature_maps[0]) > 1:
            raise RuntimeError("one image at a time")
        return super().loss(feature_maps, *arguments)
"""


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["measure", "--examples", number])
    assert caught.value.code == 2
    assert f"expected an integer >= 1, got {number!r}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_implementation_that_raises_measures_less(tmp_path: Path):
    adapter = tmp_path / "fails.py"
    adapter.write_text(FAILS)
    command = "measure", "--examples", "5", "--implementation", f"{adapter}:Fails"
    done = run(sys.executable, "-m", "conformance", *command)
    assert done.returncode == 0, done.stderr
    assert "raised RuntimeError: one image at a time" in done.stderr
    assert "target score w" in done.stdout
