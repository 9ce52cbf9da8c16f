"""Workers: what a process of one's own answers is what it would answer here; and all that may go wrong with it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conformance.batches import Recipe, Truth
from conformance.implementations import Implementation, ImplementationFailed, implementation_from, observe
from conformance.implementations.reference import ReferenceAdapter
from conformance.implementations.stored import named_tensors
from conformance.judgement import Diverges, judge
from conformance.workers import RemoteAdapter, Unavailable, Worker, WorkerFailed
from conformance.workers.process import TIMEOUT_VARIABLE, Launch, default_timeout
from conformance.workers.remote import question
from reference import NEWEST

EMPTY = Recipe().build()
FULL = Recipe(
    images=((Truth("ordinary"), Truth("overlapping")), ()), cells=(8, 8), strides=(8, 16), classes=3
).build()
HERE = Path(__file__).parent


def worker(double: str, timeout: float = 60.0, **notes: str) -> Worker:
    return Worker(Launch(f"doubles:{double}", notes, folders=(HERE,)), timeout)


@pytest.fixture
def made() -> Iterator[list[Worker]]:
    """Workers that are ended after the test."""
    workers: list[Worker] = []
    yield workers
    for each in workers:
        each.close()


def remote(made: list[Worker], double: str, timeout: float = 60.0, **notes: str) -> Implementation:
    made.append(worker(double, timeout, **notes))
    return implementation_from(RemoteAdapter(double, made[-1]), double)


def same(one: Implementation, other: Implementation, batch: object) -> bool:
    mine, theirs = (named_tensors(observe(each, batch)) for each in (one, other))  # type: ignore[arg-type]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_answers_are_those_of_this_process(made: list[Worker]):
    """To the bit, stages and gradients included; in float32, in 16 bits and in mixed precision."""
    there, here = remote(made, "Right"), implementation_from(ReferenceAdapter(), "reference")
    assert (there.capabilities, there.dialect, there.version) == (["assign", "loss", "stages"], NEWEST, "1")
    half = FULL.to(dtype=torch.bfloat16)
    mixed = type(half)(half.feature_maps, half.annotations, half.head, half.hyperparameters, autocast=True)
    for batch in (EMPTY, FULL, half, mixed):
        assert same(there, here, batch)
    inputs = observe(here, FULL).inputs
    assert torch.equal(there.adapter.assign(inputs).scores, here.adapter.assign(inputs).scores)
    assert made[0].starts == 1


def test_many_questions_in_one_round_trip(made: list[Worker]):
    adapter = remote(made, "Raises").adapter
    facts = question("loss", FULL.head, FULL.hyperparameters, FULL.device) | {"differentiate": False}
    empty = question("loss", EMPTY.head, EMPTY.hyperparameters, EMPTY.device) | {"differentiate": False}

    def tensors(batch: object) -> dict[str, torch.Tensor]:
        maps = {f"level.{n}": level for n, level in enumerate(batch.feature_maps)}  # type: ignore[attr-defined]
        return maps | {"annotations": batch.annotations}  # type: ignore[attr-defined]

    answers = adapter.worker.ask([(facts, tensors(FULL)), (empty, tensors(EMPTY))])
    assert answers[0][0]["raised"] == "ZeroDivisionError"
    assert answers[1][1]["items"].shape == (3,)


FAILURES = {
    "Hangs": "its process did not answer within 4 s and was killed",
    "Dies": "its process died with exit status 7; it printed: last words",
    "IsKilled": "its process died of signal 11 (SIGSEGV)",
    "Exits": "its process died with exit status 1; it printed: enough",
    "Garbage": "its process answered with something that is no frame",
    "Raises": "raised ZeroDivisionError: one by none",
    "ChangesState": "raised StateChanged: it changed torch's global state: default dtype",
    "Installs": "raised Blocked: a worker installs nothing (subprocess.Popen)",
    "WrongShape": "Loss.items has shape (2,), expected (3,)",
    "NoAssignment": "expected Assignment, and str was returned",
}


@pytest.mark.parametrize("double", FAILURES)
def test_a_failure_is_of_its_batch_alone(made: list[Worker], double: str):
    """What happened is told of that batch; the next batch is answered, by the same process or by a new one."""
    implementation = remote(made, double, timeout=4.0 if double == "Hangs" else 60.0)
    if double not in ("WrongShape", "NoAssignment"):
        observe(implementation, EMPTY)
    with pytest.raises(ImplementationFailed) as caught:
        observe(implementation, FULL)
    assert caught.value.what.startswith(FAILURES[double])
    if double not in ("WrongShape", "NoAssignment"):
        made[0].timeout = 60.0
        observe(implementation, EMPTY)
    dead = {"Hangs", "Dies", "IsKilled", "Exits", "Garbage"}
    assert made[0].starts == (2 if double in dead else 1)


def test_an_exception_keeps_its_traceback(made: list[Worker]):
    with pytest.raises(ImplementationFailed) as caught:
        observe(remote(made, "Raises"), FULL)
    assert caught.value.details is not None
    assert "doubles.py" in caught.value.details


def test_what_it_prints_damages_nothing(made: list[Worker]):
    implementation = remote(made, "Prints")
    judge(FULL, observe(implementation, FULL), NEWEST)
    assert made[0].starts == 1


def test_a_wrong_gradient_is_found_through_the_pipe(made: list[Worker]):
    implementation = remote(made, "WrongGradient")
    with pytest.raises(Diverges) as caught:
        judge(FULL, observe(implementation, FULL), NEWEST)
    first = caught.value.judgement.first
    assert first is not None
    assert first.stage == "gradients"


def test_no_network(made: list[Worker]):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        implementation = remote(made, "Connects", port=str(listener.getsockname()[1]))
        with pytest.raises(ImplementationFailed, match="Blocked: a worker has no network"):
            observe(implementation, FULL)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_clean_environment(made: list[Worker], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    monkeypatch.setenv("YOLO_CONFIG_DIR", "/nowhere")
    with pytest.raises(ImplementationFailed) as caught:
        observe(remote(made, "Tells"), FULL)
    said = dict(part.split("=", 1) for part in caught.value.what.split(": ", 1)[1].split("; "))
    assert said["SECRET_OF_THE_USER"] == "None"
    assert said["YOLO_AUTOINSTALL"] == "false"
    assert said["HOME"] == said["YOLO_CONFIG_DIR"] != os.environ.get("HOME")


def gone(pid: int) -> bool:
    """Whether a process has ended, within some seconds."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_hangs_is_killed_with_all_it_started(made: list[Worker], tmp_path: Path):
    pids = tmp_path / "pids"
    implementation = remote(made, "Leaves", pids=str(pids))
    made[0].timeout = 3.0
    with pytest.raises(ImplementationFailed, match="did not answer within 3 s"):
        observe(implementation, FULL)
    mine, its = map(int, pids.read_text(encoding="utf-8").split())
    assert gone(mine)
    assert gone(its)


def test_it_goes_when_the_suite_goes(tmp_path: Path):
    """However that goes: the suite is killed while its worker hangs, and nothing is left."""
    import subprocess
    import sys

    pids = tmp_path / "pids"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_process import *\n"
        "observe(remote([], 'Leaves', pids=sys.argv[2]), FULL)\n"
    )
    suite = subprocess.Popen([sys.executable, "-c", script, str(HERE), str(pids)], cwd=HERE.parents[2])
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


def test_a_worker_that_keeps_hanging_is_given_up(made: list[Worker]):
    implementation = remote(made, "Hangs")
    made[0].timeout = 0.5
    made[0].hangs = 2
    with pytest.raises(ImplementationFailed, match="did not answer"):
        observe(implementation, FULL)
    with pytest.raises(ImplementationFailed, match="did not answer"):
        observe(implementation, FULL)  # the same batch: told again, not waited for again
    began = time.monotonic()
    with pytest.raises(ImplementationFailed, match="was not asked: its worker was given up after 3 hangs"):
        observe(implementation, EMPTY)
    assert time.monotonic() - began < 0.4
    assert made[0].starts == 1


@pytest.mark.parametrize(
    ("double", "message"),
    [
        ("CannotBeMade", "X cannot be used here: OSError: no weights"),
        ("DiesWhileMade", "X: its process died with exit status 9"),
        ("HangsWhileMade", "X: its process did not answer within 8 s"),
        ("Nobody", "X cannot be used here: AttributeError"),
    ],
)
def test_an_adapter_that_cannot_be_made(double: str, message: str):
    each = worker(double, timeout=8.0)
    with pytest.raises(Unavailable) as caught:
        RemoteAdapter("X", each)
    assert str(caught.value).startswith(message)
    each.close()


def test_many_deaths_are_enough(made: list[Worker]):
    made.append(worker("Right"))
    made[0].deaths = 50
    with pytest.raises(WorkerFailed, match="given up after 0 hangs and 50 deaths"):
        made[0].ask([])


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_timeout_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{TIMEOUT_VARIABLE} is '{text}', expected seconds"):
        default_timeout()
