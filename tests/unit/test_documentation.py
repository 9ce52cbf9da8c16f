"""The documentation's commands, code and tutorials work as printed. Whole runs are marked `long`."""

import argparse
import ast
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from safetensors import safe_open
from tests.common.commands import ENVIRONMENT
from tests.common.source_trees import EXCHANGED

import tal_conformance
from tal_conformance.commands import COMMANDS
from tal_conformance.suite.options import add_options
from tal_reports.__main__ import _parser as reports_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RIGHT = "alpha=numbers.alpha,\n            beta=numbers.beta,"
WRONG = "alpha=numbers.beta,\n            beta=numbers.alpha,"
OWN_PACKAGES = ("tal_conformance", "tal_reference", "tal_reports")
PROGRAMS = {"tal-conformance": "commands", "pytest": "suite", "tal_reports": "reports", "reports": "reports"}
"""Kind of each program whose commands are tested, by the program's or module's name."""


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^ *```{language}\n(.*?)^ *```", text)


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield kind and arguments of each command of this project that a page's shell blocks contain."""
    for block in (block for language in ("bash", "sh") for block in blocks(page, language)):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.split(r" \| | 2>", line)[0], comments=True)
            words = words[2:] if words[:2] == ["python", "-m"] else words
            if words and words[0] in PROGRAMS:
                yield PROGRAMS[words[0]], words[1:]


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, which raises an error instead of ending the process."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--json", action="store_true")
    COMMANDS[command].add_arguments(parser)
    return parser


def suite_options(config: pytest.Config) -> set[str]:
    """Return the names of the options of pytest, its plugins and the suite."""
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    own = {name for group in parser._groups for option in group.options for name in option.names()}
    installed = {
        name
        for group in [*config._parser._groups, config._parser._anonymous]
        for option in group.options
        for name in option.names()
    }
    return own | installed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_accepted(page: Path, pytestconfig: pytest.Config):
    """Programs, commands and options that a page prints exist, and their values are valid."""
    for kind, arguments in commands_of(page):
        try:
            if kind == "commands":
                parser_of(arguments[0]).parse_args(arguments[1:])
            elif kind == "reports":
                reports_parser().parse_args(arguments)
            else:
                unknown = {word.split("=")[0] for word in arguments if word.startswith("-")}
                assert unknown <= suite_options(pytestconfig), arguments
        except SystemExit:
            pytest.fail(f"{page.name}: {' '.join(arguments)} is refused")


def test_commands_are_found():
    found = [command for page in PAGES for command in commands_of(page)]
    assert {kind for kind, _ in found} == set(PROGRAMS.values())
    assert len(found) > 25


def test_a_planted_option_is_refused():
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parser_of("diff").parse_args(["one", "other", "--hmtl", "page.html"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_compiles_and_imports_what_exists(page: Path):
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        known = dict(names_of(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tal_conformance":
                known[ast.unparse(node)] = getattr(tal_conformance, node.attr)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in known:
                parameters = inspect.signature(known[ast.unparse(node.func)]).parameters.values()
                named = {keyword.arg for keyword in node.keywords}
                if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
                    assert named <= {parameter.name for parameter in parameters}, ast.unparse(node)


def names_of(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield name and object of each import from this project's packages.

    Raises:
        AttributeError: a module has no such name.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OWN_PACKAGES:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                yield alias.asname or alias.name, getattr(module, alias.name)


STARTING = {
    name: next(block for block in blocks(ROOT / "docs" / "getting-started.md", "python") if name in block)
    for name in ("class MyAssigner", 'Recipe(images=((Truth("edge_on_centre"),),))', "@given")
}
"""Code blocks of the tutorial: the adapter, the repeated batch, the Hypothesis test."""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save the tutorial's adapter in the working directory, and return its path."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_adapter.py"
    path.write_text(STARTING["class MyAssigner"], encoding="utf-8")
    return path


def executed(source: str) -> ModuleType:
    module = ModuleType("of_the_tutorial")
    exec(compile(source, "of_the_tutorial.py", "exec"), module.__dict__)
    return module


def test_the_tutorials_adapter_conforms_on_its_batch_and_on_drawn_ones(adapter: Path):
    repeated, drawn = STARTING['Recipe(images=((Truth("edge_on_centre"),),))'], STARTING["@given"]
    executed(repeated)
    settings(max_examples=3, deadline=None, database=None)(executed(drawn).test_my_assigner)()


def test_the_tutorials_mistake_gives_the_printed_message(adapter: Path):
    """Id, stage, clause, place and recipe are those of the page; values may differ in their last digits."""
    source = adapter.read_text(encoding="utf-8")
    assert RIGHT in source
    adapter.write_text(source.replace(RIGHT, WRONG), encoding="utf-8")
    with pytest.raises(tal_conformance.Failure) as caught:
        executed(STARTING['Recipe(images=((Truth("edge_on_centre"),),))'])
    (printed,) = [
        block for block in blocks(ROOT / "docs" / "getting-started.md", "text") if "DIVERGENT" in block
    ]
    number = re.compile(r"\d+\.\d+(e-?\d+)?")
    observed = [number.sub("x", line.strip()) for line in str(caught.value).splitlines()]
    expected = [number.sub("x", line.strip()) for line in printed.splitlines()]
    assert observed[: len(expected)] == expected


def test_the_case_folder_is_explained():
    """Every name in a case file and an outcome file of a run stands in the section about them."""
    page = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
    section = page.partition("## The case folder")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([\w.]+?)(?:…)?`", section))
    files = [path for path in (ROOT / "tests" / "samples").glob("*/*/cases/*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".outcome"}
    for path in files:
        with safe_open(path, "pt") as content:
            (header,) = content.metadata().values()
            names = {name.partition(".")[0] + "." if "." in name else name for name in content.keys()}  # noqa: SIM118
        names = {"level.0" if name == "level." else name for name in names} | set(json.loads(header))
        assert names <= explained, names - explained


@pytest.mark.slow
@pytest.mark.long
def test_the_tutorial_about_own_tests_runs(adapter: Path):
    block = next(b for b in blocks(ROOT / "docs" / "getting-started.md", "python") if "assert_conforms" in b)
    Path("test_mine.py").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        env=ENVIRONMENT | {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{adapter.parent}"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.long
def test_the_tutorial_about_pull_requests_runs(tmp_path: Path):
    """Its commands, on the installed release in place of a checkout, find nothing; a planted change is found."""
    tree = tmp_path / "ultralytics"
    package = Path(str(find_spec("ultralytics").origin)).parent  # type: ignore[union-attr] # it is installed
    shutil.copytree(package, tree / "ultralytics", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    page = ROOT / "docs" / "review-a-pull-request.md"
    (diff,) = [
        arguments for kind, arguments in commands_of(page) if kind == "commands" and arguments[0] == "diff"
    ]
    assigner = tree / "ultralytics" / "utils" / "tal.py"
    for change, status in (("", 0), (EXCHANGED, 1)):
        assigner.write_text(assigner.read_text(encoding="utf-8") + change, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tal_conformance", *diff],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.long
def test_the_tutorial_about_upgrades_prints_what_bisect_prints(tmp_path: Path):
    page = ROOT / "docs" / "after-an-upgrade.md"
    (printed,) = blocks(page, "text")
    (bisect,) = [arguments for _, arguments in commands_of(page) if arguments[0] == "bisect"]
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance", *bisect],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, printed), done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.long
def test_the_tutorial_about_nan_prints_what_doctor_prints(tmp_path: Path):
    """Its script writes a batch that doctor finds fault with, that official code conforms on, and that is explained."""
    page = ROOT / "docs" / "training-gives-nan.md"
    (script,), (printed,) = blocks(page, "python"), blocks(page, "text")
    exec(compile(script.replace("step-1200", str(tmp_path / "step-1200")), "save_batch.py", "exec"), {})
    outputs = {}
    for kind, arguments in commands_of(page):
        assert kind == "commands"
        if arguments[0] == "record":
            continue
        done = subprocess.run(
            [sys.executable, "-m", "tal_conformance", *arguments_without_own_adapter(arguments)],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        outputs[arguments[0]] = done.returncode, done.stdout + done.stderr
    assert {name: status for name, (status, _) in outputs.items()} == {"doctor": 1, "replay": 0, "explain": 0}
    assert printed in outputs["doctor"][1]


def arguments_without_own_adapter(arguments: list[str]) -> list[str]:
    """Return the arguments of a command without `--implementation my_adapter.py:MyLoss`, which only a reader has."""
    own = [at for at, word in enumerate(arguments) if word.startswith("my_adapter.py:")]
    return [word for at, word in enumerate(arguments) if at not in own and at + 1 not in own]
