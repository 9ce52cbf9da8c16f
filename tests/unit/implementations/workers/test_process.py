"""Workers return the same results as this process, and their failures are contained."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome_tensors import named_tensors
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ImplementationFailed, PackageUnavailable
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.workers.process import (
    TIMEOUT_VARIABLE,
    Launch,
    Worker,
    WorkerFailed,
    default_timeout,
)
from tal_conformance.implementations.workers.remote import RemoteAdapter, question
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_reference import NEWEST

EMPTY = Recipe().build()
FULL = Recipe(
    images=((Truth("ordinary"), Truth("overlapping")), ()), cells=(8, 8), strides=(8, 16), classes=3
).build()
HERE = Path(__file__).parents[3] / "fauxmplementations"


PLACES = (
    "Right", "Hangs", "Leaves", "Dies", "Exits", "IsKilled", "Prints", "Garbage",
    "Raises", "ChangesState", "Connects", "Installs", "Tells", "WrongShape", "NoAssignment", "WrongGradient",
)  # fmt: skip
"""Of `workers.EVERY_DOUBLE`."""


def worker(double: str, timeout: float = 60.0, **notes: str) -> Worker:
    return Worker(Launch(f"workers:{double}", notes, folders=(HERE,)), timeout)


def meant_for(double: str) -> Batch:
    """Return a batch on which the worker's adapter behaves as the test double named `double`."""
    numbers = replace(FULL.hyperparameters, dfl_gain=100.0 + PLACES.index(double))
    return replace(FULL, hyperparameters=numbers)


@dataclass
class Doubles:
    """A worker with all test doubles: its implementation, blocked port, and file of process ids."""

    worker: Worker
    implementation: Implementation
    port: int
    pids: Path


@pytest.fixture(scope="module")
def doubles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doubles]:
    pids = tmp_path_factory.mktemp("doubles") / "pids"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    each = worker("Every", pids=str(pids), port=str(port))
    yield Doubles(each, implementation_from(RemoteAdapter("Every", each), "Every"), port, pids)
    each.close()


@pytest.fixture(autouse=True)
def _patient(doubles: Doubles) -> Iterator[None]:
    yield
    doubles.worker.timeout, doubles.worker.hangs = 60.0, 0


def same(one: Implementation, other: Implementation, batch: object) -> bool:
    mine, theirs = (named_tensors(execute(each, batch)) for each in (one, other))  # type: ignore[arg-type]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_answers_are_those_of_this_process(doubles: Doubles):
    """In float32, bfloat16 and under autocast, the reference gives the same bits in a worker and in this process."""
    there, here = doubles.implementation, implementation_from(ReferenceAdapter(), "reference")
    assert (there.capabilities, there.dialect, there.version) == (["assign", "loss", "stages"], NEWEST, "1")
    half = FULL.to(dtype=torch.bfloat16)
    mixed = replace(half, autocast=True)
    for batch in (EMPTY, FULL, half, mixed):
        assert same(there, here, batch)
    inputs = execute(here, FULL).inputs
    assert torch.equal(there.adapter.assign(inputs).scores, here.adapter.assign(inputs).scores)
    assert doubles.worker.starts == 1


def test_many_questions_in_one_round_trip(doubles: Doubles):
    numbers = meant_for("Raises").hyperparameters
    facts = question("loss", FULL.head, numbers, FULL.device) | {"differentiate": False}
    empty = question("loss", EMPTY.head, EMPTY.hyperparameters, EMPTY.device) | {"differentiate": False}

    def tensors(batch: object) -> dict[str, torch.Tensor]:
        maps = {f"level.{n}": level for n, level in enumerate(batch.feature_maps)}  # type: ignore[attr-defined]
        return maps | {"annotations": batch.annotations}  # type: ignore[attr-defined]

    answers = doubles.worker.ask([(facts, tensors(FULL)), (empty, tensors(EMPTY))])
    assert answers[0][0]["raised"] == "ZeroDivisionError"
    assert answers[1][1]["items"].shape == (3,)


FAILURES = {
    "Hangs": "its process did not answer within 2 s and was killed",
    "Dies": "its process died with exit status 7; it printed: last words",
    "IsKilled": "its process died of signal 11 (SIGSEGV)",
    "Exits": "raised SystemExit: enough",
    "Garbage": "its process sent bytes that are not a message",
    "Raises": "raised ZeroDivisionError: one by none",
    "ChangesState": "changed global torch state: default dtype",
    "Installs": "raised Blocked: installing packages is blocked in a worker process (subprocess.Popen)",
    "WrongShape": "Loss.items has shape (2,), expected (3,)",
    "NoAssignment": "returned a value of type str, expected Assignment",
}


DEADLY = {"Hangs", "Dies", "IsKilled", "Garbage"}


@pytest.mark.slow
@pytest.mark.parametrize("double", FAILURES)
def test_a_failure_is_of_its_batch_alone(doubles: Doubles, double: str):
    """After a failing batch the next batch conforms, in a new worker process if the old process died."""
    execute(doubles.implementation, EMPTY)
    before = doubles.worker.starts
    doubles.worker.timeout = 2.0 if double == "Hangs" else 60.0
    with pytest.raises(ImplementationFailed) as caught:
        execute(doubles.implementation, meant_for(double))
    assert caught.value.what.startswith(FAILURES[double])
    doubles.worker.timeout = 60.0
    execute(doubles.implementation, EMPTY)
    assert doubles.worker.starts == before + (double in DEADLY)


def test_an_exception_keeps_its_traceback(doubles: Doubles):
    with pytest.raises(ImplementationFailed) as caught:
        execute(doubles.implementation, meant_for("Raises"))
    assert caught.value.details is not None
    assert "fauxmplementations/workers.py" in caught.value.details


def test_what_it_prints_damages_nothing(doubles: Doubles):
    execute(doubles.implementation, EMPTY)
    before = doubles.worker.starts
    batch = meant_for("Prints")
    judge(execute(doubles.implementation, batch), Expectation(batch, NEWEST))
    assert doubles.worker.starts == before


def test_a_wrong_gradient_is_found_through_the_pipe(doubles: Doubles):
    batch = meant_for("WrongGradient")
    with pytest.raises(Divergence) as caught:
        judge(execute(doubles.implementation, batch), Expectation(batch, NEWEST))
    first = caught.value.judgement.first
    assert first is not None
    assert first.stage == "gradients"


def test_no_network(doubles: Doubles):
    """A worker cannot connect to a listening local port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", doubles.port))
        listener.listen()
        listener.settimeout(0.2)
        with pytest.raises(
            ImplementationFailed, match="Blocked: network access is blocked in a worker process"
        ):
            execute(doubles.implementation, meant_for("Connects"))
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.slow
def test_a_clean_environment(doubles: Doubles, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    monkeypatch.setenv("YOLO_CONFIG_DIR", "/nowhere")
    doubles.worker.close()
    with pytest.raises(ImplementationFailed) as caught:
        execute(doubles.implementation, meant_for("Tells"))
    said = dict(part.split("=", 1) for part in caught.value.what.split(": ", 1)[1].split("; "))
    assert said["SECRET_OF_THE_USER"] == "None"
    assert said["YOLO_AUTOINSTALL"] == "false"
    assert said["HOME"] == said["YOLO_CONFIG_DIR"] != os.environ.get("HOME")


def gone(pid: int) -> bool:
    """Return True if the process ends within five seconds."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_hangs_is_killed_with_all_it_started(doubles: Doubles):
    execute(doubles.implementation, EMPTY)
    doubles.worker.timeout = 3.0
    with pytest.raises(ImplementationFailed, match="did not answer within 3 s"):
        execute(doubles.implementation, meant_for("Leaves"))
    mine, its = map(int, doubles.pids.read_text(encoding="utf-8").split())
    assert gone(mine)
    assert gone(its)


@pytest.mark.slow
def test_it_goes_when_the_suite_goes(tmp_path: Path):
    """If the suite's process is killed while its worker hangs, the worker process ends soon after."""
    pids = tmp_path / "pids"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_process import *\n"
        "execute(implementation_from(RemoteAdapter('L', worker('Leaves', pids=sys.argv[2])), 'L'), FULL)\n"
    )
    suite = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(pids)], cwd=HERE.parents[1]
    )
    try:
        for _ in range(600):
            if pids.exists() and len(pids.read_text(encoding="utf-8").split()) == 2:
                break
            time.sleep(0.1)
        mine, its = map(int, pids.read_text(encoding="utf-8").split())
    finally:
        suite.kill()
        suite.wait()
    assert gone(mine)
    assert gone(its)


def test_a_worker_that_keeps_hanging_is_given_up(doubles: Doubles):
    execute(doubles.implementation, EMPTY)
    batch = meant_for("Hangs")
    again = replace(batch, hyperparameters=replace(batch.hyperparameters, cls_gain=0.25))
    doubles.worker.timeout, doubles.worker.hangs = 0.5, 2
    with pytest.raises(ImplementationFailed, match="did not answer"):
        execute(doubles.implementation, again)
    before = doubles.worker.starts
    began = time.monotonic()
    with pytest.raises(ImplementationFailed, match="did not answer"):
        execute(doubles.implementation, again)  # the same error, without waiting again
    with pytest.raises(ImplementationFailed, match="was not called: its worker is not restarted after"):
        execute(doubles.implementation, EMPTY)
    assert time.monotonic() - began < 0.4
    assert doubles.worker.starts == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("double", "message"),
    [
        ("CannotBeMade", "cannot make the adapter of X: OSError: no weights"),
        ("DiesWhileMade", "X: its process died with exit status 9"),
        ("HangsWhileMade", "X: its process did not answer within 4 s"),
        ("Nobody", "cannot make the adapter of X: AttributeError"),
    ],
)
def test_an_adapter_that_cannot_be_made(double: str, message: str):
    each = worker(double, timeout=4.0 if double == "HangsWhileMade" else 60.0)
    with pytest.raises(PackageUnavailable) as caught:
        RemoteAdapter("X", each)
    assert str(caught.value).startswith(message)
    each.close()


def test_many_deaths_are_enough():
    each = worker("Right")
    each.deaths = 50
    with pytest.raises(WorkerFailed, match="not restarted after 0 hangs and 50 deaths"):
        each.ask([])
    assert each.starts == 0


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_timeout_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{TIMEOUT_VARIABLE} is '{text}', expected a number of seconds"):
        default_timeout()
