"""`assert_conforms` in another project's tests, which have their own configuration, plugins and conftest."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.common.commands import ENVIRONMENT

SMALL = 'profile="dev", device="cpu", options=["--examples", "3", "-k", "topk or metric"], progress=False'
"""Arguments of a small run."""
WRONG = """
class Exchanged(MyAssigner):
    name = "exchanged"

    def assign(self, inputs):
        numbers = inputs.hyperparameters
        return super().assign(replace(inputs, hyperparameters=replace(numbers, alpha=numbers.beta, beta=numbers.alpha)))
"""


@pytest.fixture
def project(tmp_path: Path, readme_assigner: str) -> Path:
    """Return a project with a correct and a wrong adapter, and settings that could disturb the suite."""
    (tmp_path / "my_adapter.py").write_text(readme_assigner)
    (tmp_path / "wrong.py").write_text(
        f"from dataclasses import replace\n\nfrom my_adapter import MyAssigner\n\n{WRONG}"
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:hypothesispytest --maxfail=1\nfilterwarnings = error\npython_files = test_*.py\n"
    )
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            def pytest_addoption(parser):
                parser.addoption("--device", default="theirs")
                parser.addoption("--examples", default="theirs")
            """
        )
    )
    return tmp_path


def outcome_of(project: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a test file in the project, and return the finished process."""
    (project / "test_mine.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=ENVIRONMENT | {"PYTEST_ADDOPTS": "-ra", "COV_CORE_SOURCE": "nowhere"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.long
def test_classes_objects_functions_and_names_conform(project: Path):
    done = outcome_of(
        project,
        f"""
        import pytest
        import torch

        from my_adapter import MyAssigner


        def make():
            return MyAssigner()


        class Kept(MyAssigner):
            def __init__(self, name):
                self.name = name


        (torch.rand(600, 600, requires_grad=True) @ torch.rand(600, 600)).sum().backward()  # starts torch's threads


        @pytest.mark.parametrize("adapter", [MyAssigner, make, Kept("kept"), "my_adapter.py:MyAssigner"], ids=str)
        def test_it(conforms, adapter):
            result = conforms(adapter, {SMALL})
            assert result.verdict == "conforms"
            assert result.counts["exact"] > 0
            assert ": conforms, " in repr(result)
        """,
        "--junitxml=junit.xml",
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "4 passed" in done.stdout
    assert len(re.findall('name="tal_conformance_report"', (project / "junit.xml").read_text())) == 4
    names = {
        json.loads(summary.read_text())["implementations"][0]["name"]
        for summary in project.glob("tal-conformance-reports/2*/summary.json")
    }
    assert names == {"my-assigner", "kept"}


def test_a_failure_says_what_differs_and_how_to_repeat_it(project: Path):
    done = outcome_of(
        project,
        f"""
        from tal_conformance import assert_conforms
        from wrong import Exchanged


        def test_it():
            assert_conforms(Exchanged, {SMALL})
        """,
    )
    assert done.returncode == 1, done.stdout[-5000:]
    assert "DoesNotConform: exchanged diverges" in done.stdout
    assert re.search(r"DIVERGENT|divergent at metric \(TAL-MET-1\)", done.stdout)
    command = re.search(
        r"pytest --pyargs tal_conformance --implementation wrong:Exchanged --case \S+", done.stdout
    )
    assert command is not None, done.stdout[-3000:]
    repeated = subprocess.run(
        [sys.executable, "-m", *command.group().split(), "--noconftest", "-c", os.devnull, "--rootdir", "."],
        cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert repeated.returncode == 1, repeated.stdout[-2000:] + repeated.stderr[-2000:]
    assert "TAL-MET-1" in repeated.stdout


def test_an_object_that_fails_is_repeated_in_python(project: Path):
    done = outcome_of(
        project,
        f"""
        from tal_conformance import Failure, check, run_conformance
        from wrong import Exchanged


        def test_it():
            mine = Exchanged()
            result = run_conformance(mine, {SMALL})
            cause = result.causes[0]
            assert (cause.stage, cause.clause) == ("metric", "TAL-MET-1")
            assert "check(adapter, " in cause.repeat["python"]
            try:
                check(mine, cause.case_file)
            except Failure as failure:
                assert failure.clause == "TAL-MET-1"
            else:
                raise AssertionError("the case did not fail again")
            assert "svg" in result._repr_html_()
            assert result.report("mine.html").stat().st_size > 10_000
        """,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_unittest_and_decorated_tests_run_over_two_workers(project: Path):
    done = outcome_of(
        project,
        f"""
        import unittest

        from my_adapter import MyAssigner
        from tal_conformance import assert_conforms, conformance_test
        from wrong import Exchanged


        class Mine(unittest.TestCase):
            def test_it(self):
                assert_conforms(MyAssigner(), {SMALL})

            @conformance_test(MyAssigner, {SMALL})
            def test_decorated(self, result):
                self.assertEqual(result.name, "my-assigner")


        @conformance_test(MyAssigner, Exchanged, {SMALL})
        def test_each(tmp_path, result):
            assert tmp_path.is_dir()
        """,
        *("-n", "2", "--maxfail=9", "-rA"),
    )
    assert done.returncode == 1, done.stdout[-5000:]
    assert "3 passed" in done.stdout
    assert "FAILED test_mine.py::test_each[Exchanged]" in done.stdout


@pytest.mark.long
def test_a_traced_test_is_not_traced_in_the_child(project: Path):
    done = outcome_of(
        project,
        f"""
        import sys
        import threading

        from my_adapter import MyAssigner
        from tal_conformance import assert_conforms


        def test_it():
            seen = set()

            def trace(frame, event, argument):
                seen.add(frame.f_code.co_filename)
                return None

            mine = MyAssigner()
            sys.settrace(trace)
            threading.settrace(trace)
            try:
                assert assert_conforms(mine, {SMALL}).conforms
            finally:
                sys.settrace(None)
                threading.settrace(None)
            assert not [name for name in seen if "test_topk" in name]
        """,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.long
def test_a_run_beyond_its_time_limit_is_stopped_and_says_so(project: Path):
    done = outcome_of(
        project,
        """
        import time

        import pytest

        from my_adapter import MyAssigner
        from tal_conformance import DoesNotConform, assert_conforms


        class Slow(MyAssigner):
            def assign(self, inputs):
                time.sleep(0.05)
                return super().assign(inputs)


        @pytest.mark.parametrize("adapter", [Slow, Slow()], ids=["class", "object"])
        def test_it(adapter):
            begin = time.monotonic()
            with pytest.raises(DoesNotConform, match="time limit of 12 s") as caught:
                assert_conforms(adapter, device="cpu", timeout=12, progress=False)
            assert time.monotonic() - begin < 45
            assert caught.value.result.verdict == "not finished"
        """,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_an_adapter_that_ends_its_process_does_not_end_the_callers(project: Path):
    done = outcome_of(
        project,
        f"""
        import os

        import pytest

        from my_adapter import MyAssigner
        from tal_conformance import DoesNotConform, assert_conforms


        class Ending(MyAssigner):
            def assign(self, inputs):
                os._exit(0)


        @pytest.mark.parametrize("adapter", [Ending, Ending()], ids=["class", "object"])
        def test_it(adapter):
            with pytest.raises(DoesNotConform, match="ended with exit status 0"):
                assert_conforms(adapter, {SMALL})
        """,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_an_unknown_name_is_an_error_with_a_suggestion(project: Path):
    done = outcome_of(
        project,
        f"""
        import pytest

        from tal_conformance import UnknownImplementation, assert_conforms


        def test_it():
            with pytest.raises(UnknownImplementation, match="has no object 'MyAsigner'; did you mean 'MyAssigner'"):
                assert_conforms("my_adapter.py:MyAsigner", {SMALL})
        """,
    )
    assert done.returncode == 0, done.stdout[-5000:]
