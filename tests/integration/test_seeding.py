"""Draws depend only on the strategies and the seed."""

import json
import sys
from pathlib import Path

from tests.common.commands import ROOT, run

NUMBER = 770_003_119
"""Stands in one module, and is not drawn by chance."""

DRAWING = """
import sys

sys.path.insert(0, sys.argv[1])
import of_a_person
from hypothesis import given, settings, strategies
from tal_conformance.batches.seeding import make_draws_reproducible

if sys.argv[2] == "from the seed alone":
    make_draws_reproducible()

@settings(max_examples=5000, derandomize=True, database=None)
@given(number=strategies.integers(0, 10**12))
def drawn(number):
    print(number)

drawn()
"""


def drawn(how: str, folder: Path) -> list[int]:
    """Return integers that Hypothesis draws while a user's module with a constant is loaded."""
    (folder / "of_a_person.py").write_text(f"NUMBER = {NUMBER}\n")
    done = run(sys.executable, "-c", DRAWING, str(folder), how)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_constants_of_loaded_modules_are_not_drawn(tmp_path: Path):
    assert NUMBER not in drawn("from the seed alone", tmp_path)


def test_they_are_drawn_where_nothing_is_done_about_it(tmp_path: Path):
    assert NUMBER in drawn("as Hypothesis does", tmp_path)


def test_a_run_repeats_from_another_folder_and_with_more_loaded(tmp_path: Path):
    """Two runs judge the same batches, identified by their ids in the log."""
    adapter = tmp_path / "mine.py"
    adapter.write_text(
        f"from tal_conformance.implementations.adapters.reference import ReferenceAdapter\n\nLIMIT = {NUMBER}\n"
    )
    ours = judged(tmp_path / "ours", ROOT, "conformance", "--implementation", "reference")
    theirs = judged(
        *(tmp_path / "theirs", tmp_path, "--pyargs", "tal_conformance"),
        *("--implementation", f"{adapter}:ReferenceAdapter"),
    )
    assert ours == theirs
    assert len(ours) > 50


def judged(reports: Path, where: Path, *target: str) -> list[str]:
    done = run(
        *(sys.executable, "-m", "pytest", *target, "-p", "no:cacheprovider", "-k", "test_topk and not recorded"),
        *("--conformance-profile", "ci", "--device", "cpu", "--report-dir", str(reports)),
        cwd=where,
    )  # fmt: skip
    logs = list(reports.glob("2*/log.jsonl"))
    assert len(logs) == 1, done.stdout + done.stderr
    lines = [json.loads(line) for line in logs[0].read_text().splitlines()]
    return [line["case"] for line in lines if line["kind"] == "batch"]
