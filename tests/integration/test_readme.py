"""The README's commands, adapter and links work as printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISTAKE = (
    "alpha=numbers.alpha,\n            beta=numbers.beta,",
    "alpha=numbers.beta,\n            beta=numbers.alpha,",
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def conformance(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """Run the suite from the repository's root with few examples; return the process and its summary.json."""
    options = ("--examples", "5", "--report-dir", str(folder / "reports"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "--benchmark-skip", *options, *arguments],
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    summary = folder / "reports" / "latest" / "summary.json"
    assert summary.is_file(), done.stdout[-5000:] + done.stderr[-5000:]
    return done, json.loads(summary.read_text(encoding="utf-8"))


@pytest.fixture
def adapter(tmp_path: Path, readme_assigner: str) -> Path:
    """Return the path of a copy of the README's my_adapter.py."""
    path = tmp_path / "my_adapter.py"
    path.write_text(readme_assigner, encoding="utf-8")
    return path


def test_it_is_short():
    assert len(README.split()) <= 700


def test_the_template_is_short(readme_assigner: str):
    assert len(readme_assigner.split("class MyAssigner")[1].splitlines()) <= 20


@pytest.mark.slow
def test_the_template_adapter_conforms(adapter: Path):
    quick = "-k", "not exhaustive"  # the exhaustive checks of all scopes take a minute
    done, summary = conformance(adapter.parent, "--implementation", f"{adapter}:MyAssigner", *quick)
    assert done.returncode == 0, done.stdout[-5000:]
    (mine,) = summary["implementations"]
    assert mine["name"] == "my-assigner"
    assert mine["batches"] > 0
    (documented,) = re.findall(r"^implementation  .*", README, re.MULTILINE)
    (printed,) = re.findall(r"^implementation  .*", done.stdout, re.MULTILINE)
    always = {"implementation", "batches", "result"}  # other columns are left out of a table that is too wide
    assert always <= set(documented.split()) & set(printed.split())
    assert set(printed.split()) - {"rejected", "inconclusive", "not", "supported"} <= set(documented.split())


@pytest.mark.slow
@pytest.mark.long
def test_the_documented_adapters_conform(tmp_path: Path, documented_adapters: dict[str, str]):
    """Every adapter in docs/adapters.md conforms if its code is stored in a file."""
    assert len(documented_adapters) >= 5
    for name, source in documented_adapters.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    classes = {
        name: re.findall(r"^class (\w+)", source, re.MULTILINE)
        for name, source in documented_adapters.items()
    }
    named = [
        f"{tmp_path / name}:{found[-1]}" for name, found in classes.items()
    ]  # the last class is the adapter
    quick = "-k", "not exhaustive"  # because the exhaustive checks take a minute for each adapter
    options = (part for each in named for part in ("--implementation", each))
    done, summary = conformance(tmp_path, *options, *quick)
    assert done.returncode == 0, done.stdout[-5000:]
    assert len(summary["implementations"]) == len(named)
    assert all(implementation["batches"] for implementation in summary["implementations"])


@pytest.mark.slow
def test_cause_and_stage_of_the_worked_mistake_are_found(adapter: Path):
    right = adapter.read_text(encoding="utf-8")
    wrong = right.replace(*MISTAKE)
    assert wrong != right
    adapter.write_text(wrong, encoding="utf-8")
    options = ("--implementation", f"{adapter}:MyAssigner", "--identification-seconds", "40")
    done, summary = conformance(adapter.parent, *options)
    assert done.returncode == 1, done.stdout[-5000:]
    for words in (
        "It computes ultralytics-8.4.190 with alpha and beta exchanged.",
        "my-assigner: divergent at metric (TAL-MET-1), case ",
    ):
        assert words in README
        assert words in done.stdout
    (mine,) = summary["implementations"]
    assert mine["verdicts"]["divergent"] > 0
    assert "metric" in {first["stage"] for first in mine["first_divergences"]}


def test_its_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_its_make_targets_exist():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= rules


def test_documented_options_are_the_suites():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "--help"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    declared = set(
        re.findall(
            r"(?<![\w-])(--[a-z][a-z-]+)",
            done.stdout.partition("conformance of assigners")[2].partition("\n\n")[0],
        )
    )
    assert {"--implementation", "--device", "--examples", "--report-dir"} <= declared
    assert [option for option in declared if option not in page] == []


def test_what_it_says_of_the_licence():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "AGPL-3.0" in README
    assert "called, not contained" in README
