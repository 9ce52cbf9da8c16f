"""A misbehaving implementation is reported with batch and reason, and does not stop other implementations."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.everything import LARGEST_GENERATED
from tal_conformance.core.batch import Batch
from tal_conformance.core.processes import descendants
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.workers.process import MEMORY_VARIABLE, TIMEOUT_VARIABLE, Launch, Worker
from tal_conformance.implementations.workers.remote import RemoteAdapter
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_reference import NEWEST

ROOT = Path(__file__).parents[2]
DOUBLES = Path(__file__).parents[1] / "fauxmplementations" / "misbehaving.py"
GIBIBYTES, SECONDS = 3, 20
"""Limits of memory and time for a call in a worker."""

SURVIVABLE = {
    "Raises": "raised ZeroDivisionError: one by none",
    "RaisesBackwards": "raised ArithmeticError: no way back",
    "Recurses": "raised RecursionError: maximum recursion depth exceeded",
    "ExitsPolitely": "raised SystemExit: enough",
    "Skips": "raised Skipped: not today",
    "ExpectsToFail": "raised XFailed: as expected",
    "InterruptsItself": "raised KeyboardInterrupt: by itself",
    "ClosesGenerators": "raised GeneratorExit: closed",
    "IsCancelled": "raised CancelledError: cancelled",
    "ReturnsNone": "",
    "TooFew": "",
    "TooMany": "",
    "OneImageTooFew": r"Assignment.boxes has shape \(0, 16, 4\), expected \(1, 16, 4\)",
    "WrongShape": r"Assignment.scores has shape \(1, 2, 16\), expected \(1, 16, 2\)",
    "WrongDtype": "Assignment.truth_index has dtype",
    "WrongDevice": "Assignment.scores is on meta, expected cpu",
    "ReturnsNan": "target score w is nan",
    "ChangesInputs": "changed its input truth_boxes",
    "ChangesLater": "changed Assignment.scores after returning it for the previous batch",
    "ChangesState": "changed global torch state: default dtype to torch.float64",
    "Prints": "printed 3,1[0-9]{2},[0-9]{3} bytes; the limit is 1,048,576",
    "Leaves": r"left a child process running \(killed\): .*time.sleep\(600\)",
    "Forks": r"left a child process running \(killed\): ",
    "ForksAndReturns": r"left a child process running \(killed\): ",
    "Writes": "wrote into the working directory: left-by-writes.txt",
}
"""Expected error message of each double, in the suite's process and in a worker process."""
HERE = SURVIVABLE | {
    "ReturnsNone": "assign returned None, expected an Assignment",
    "TooFew": "assign returned a tuple, expected an Assignment",
    "TooMany": "assign returned a tuple, expected an Assignment",
}
ANSWERED = SURVIVABLE | {
    "ReturnsNone": "returned a value of type NoneType, expected Assignment",
    "TooFew": "returned a value of type tuple, expected Assignment",
    "TooMany": "returned a value of type tuple, expected Assignment",
    "PrintsWithoutEnd": r"raised OSError: \[Errno 27\] File too large",
    "Daemonises": r"left a child process running \(killed\): ",
}
"""Expected error message of each double in a worker process that continues after the error."""
NAMES = [name for name in ANSWERED if name != "RaisesBackwards"]  # its class has a loss, but no assigner
DEADLY = {
    "RaisesBackwards": "raised ArithmeticError: no way back",
    "Hangs": f"its process did not answer within {SECONDS} s and was killed",
    "Sleeps": f"its process did not answer within {SECONDS} s and was killed",
    "Segfaults": r"its process died of signal 11 \(SIGSEGV\)",
    "Exits": "its process died with exit status 0",
    "IsKilled": r"its process died of signal 9 \(SIGKILL\)",
    "EatsMemory": f"its process died: it needed more than {GIBIBYTES} GiB of memory",
    "EatsMemoryInTorch": f"its process died: it needed more than {GIBIBYTES} GiB of memory",
    "LeaksMemory": f"its process died: it needed more than {GIBIBYTES} GiB of memory",
}
"""Expected error message of each double whose worker process ends and is replaced."""


@dataclass(frozen=True)
class Done:
    """Result of a finished run: exit status, output, folder of the run, working directory and log lines."""

    status: int
    printed: str
    folder: Path
    working: Path
    lines: list[dict[str, Any]]

    def of(self, kind: str, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind and line["implementation"] == name]


def cases(folder: Path) -> list[Batch]:
    """Save three batches as case files and return them; only the second has ground truths."""
    one = Recipe(images=((Truth("ordinary"),),), classes=2)
    empty = Recipe(cells=(40, 40), classes=2)
    batches = [empty.build(), one.build(), replace(empty, seed=1).build()]
    assert batches[0].anchors > LARGEST_GENERATED
    for number, batch in enumerate(batches):
        batch.save(folder / f"{number}.safetensors")
    return batches


def marked(mark: str) -> list[int]:
    """Return the ids of running processes that have the text `mark` in an environment variable."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
            if mark.encode() in (path / "environ").read_bytes() and state not in "ZX":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def run(folder: Path, names: list[str], *options: str) -> Done:
    """Run the suite on the named adapters; assert that no process and no temporary file remains."""
    working, temporary = folder / "working", folder / "temporary"
    for each in (working, temporary):
        each.mkdir()
    asked = [word for name in names for word in ("--implementation", f"{DOUBLES}:{name}")]
    limits = {TIMEOUT_VARIABLE: str(SECONDS), MEMORY_VARIABLE: str(GIBIBYTES)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--pyargs", "tal_conformance", "-p", "no:cacheprovider", "-q"),
            *("--report-dir", str(folder / "runs"), "--device", "cpu", *asked, *options),
        ],
        cwd=working,
        env=os.environ
        | limits
        | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert marked(f"TMPDIR={temporary}") == [], done.stdout
    assert [path.name for path in temporary.glob("tal-conformance-worker-*")] == []
    (log,) = (folder / "runs").glob("2*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return Done(done.returncode, done.stdout, log.parent, working, lines)


@pytest.fixture(scope="module", params=["here", pytest.param("elsewhere", marks=pytest.mark.long)])
def done(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, list[Batch], dict[str, str]]:
    """Return a run of misbehaving adapters, with or without `--isolate`, its batches, and expected errors."""
    folder = tmp_path_factory.mktemp(request.param)
    batches = cases(folder)
    expected = HERE if request.param == "here" else DEADLY
    given = [word for number in range(len(batches)) for word in ("--case", f"{folder}/{number}.safetensors")]
    isolate = ["--isolate"] if request.param == "elsewhere" else []
    return run(folder, ["Right", *expected, "RightToo"], *given, *isolate), batches, expected


SPOILS_EACH_LAST_RESULT = ("ChangesLater",)
"""Doubles that change the result of the previous call in every call."""


def test_the_error_is_told_with_batch_and_reason(done: Any):
    run, batches, expected = done
    for name, reason in expected.items():
        told = run.of("divergence", name)
        assert told, name
        assert {line["verdict"] for line in told} == {"error"}, name
        assert all(re.match(reason, line["summary"]) for line in told), told
        judged = {line["case"]: line["verdict"] for line in run.of("batch", name)}
        # all batches are judged, also after an error
        assert list(judged) == [batch.id for batch in batches], name
        at = [batch.id for batch in batches].index(told[0]["case"])
        assert at == 1, name
        spoilt = range(at, 3) if name in SPOILS_EACH_LAST_RESULT else (at,)
        assert list(judged.values()) == ["error" if place in spoilt else "exact" for place in range(3)], name
        assert (run.folder / "cases" / f"{batches[at].id}.safetensors").is_file()


def test_all_others_complete_and_the_report_is_whole(done: Any):
    run, batches, expected = done
    assert run.status == 1
    for name in ("Right", "RightToo"):
        assert [line["verdict"] for line in run.of("batch", name)] == ["exact"] * len(batches)
    assert run.lines[-1]["kind"] == "end"
    assert run.lines[-1]["exit"] == 1
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    results = {each["name"]: each["result"] for each in summary["implementations"]}
    assert results == dict.fromkeys(expected, "error") | dict.fromkeys(("Right", "RightToo"), "conforms")
    assert (run.folder.parent / "latest").resolve() == run.folder
    assert re.search(r"^Right +\d.* conforms$", run.printed, re.MULTILINE), run.printed


def test_what_a_worker_writes_goes_with_its_folder(done: Any):
    run, _, expected = done
    left = [path.name for path in run.working.iterdir() if not path.name.startswith(".")]
    assert left == ([] if "Hangs" in expected else ["left-by-writes.txt"])


BEFORE = {"exact", "within_bound", "inconclusive"}
"""Verdicts of correct results; a batch is inconclusive if overlaps of one of its images are 0 / 0 (IOU-1)."""


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--isolate"]], ids=["here", "elsewhere"])
def test_what_fails_at_the_500th_batch_is_told_of_that_batch(tmp_path: Path, options: list[str]):
    """Adapters that raise at their 500th batch, or from that batch on, are reported as errors at that batch."""
    names = ["RaisesLate", "RaisesFromThenOn"]
    drawn = ["-k", "test_metric", "--examples", "505", "--hypothesis-seed", "0"]
    done = run(tmp_path, names, *drawn, *options)
    assert done.status == 1
    for name in names:
        verdicts = [line["verdict"] for line in done.of("batch", name)]
        assert set(verdicts[:499]) <= BEFORE
        assert verdicts[499] == "error"
        (told,) = done.of("divergence", name)
        assert told["summary"].startswith("raised RuntimeError: the 500th")
        assert told["verdict"] == "error"
        assert told["traceback"]
    assert {line["verdict"] for line in done.of("batch", names[0])[500:]} <= BEFORE
    assert done.lines[-1]["exit"] == 1


@pytest.fixture(scope="module")
def answered() -> Iterator[Implementation]:
    """Yield an implementation that runs every adapter of `NAMES` in one worker process."""
    worker = Worker(Launch("misbehaving:Every", {"names": NAMES}, [DOUBLES.parent]), timeout=120.0)
    yield implementation_from(RemoteAdapter("Every", worker), "Every")
    worker.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_that_survives_goes_on(answered: Implementation, name: str):
    worker = answered.adapter.worker
    nothing, one = Recipe(classes=2).build(), Recipe(images=((Truth("ordinary"),),), classes=2).build()
    place = NAMES.index(name)
    batch = replace(one, hyperparameters=replace(one.hyperparameters, dfl_gain=100.0 + place))
    if name == "ChangesLater":
        execute(answered, replace(nothing, hyperparameters=batch.hyperparameters))
    with pytest.raises((ImplementationFailed, Divergence)) as caught:
        judge(execute(answered, batch), Expectation(batch, NEWEST))
    assert re.search(ANSWERED[name], str(caught.value))
    judge(execute(answered, nothing), Expectation(nothing, NEWEST))
    assert worker.starts == 1
    assert descendants(worker.pid or 0) == set()
