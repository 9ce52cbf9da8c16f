"""Worker processes have limits of time, message size and memory, no network, and leave no files or processes."""

import os
import re
import resource
import sys
import time
from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.files import SETTLED, TemporaryFolder
from tal_conformance.core.processes import lives
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    PackageUnavailable,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.workers.confine import NAMESPACE
from tal_conformance.implementations.workers.memory import RLIMIT, UNLIMITED, description
from tal_conformance.implementations.workers.process import MEMORY_VARIABLE, TIMEOUT_VARIABLE
from tal_conformance.implementations.workers.remote import check_description, longest_answer

FOLDER = Path(__file__).parents[3] / "fauxmplementations"
BATCH = Recipe(images=((Truth("ordinary"),),), classes=2).build()


def isolated(name: str) -> Implementation:
    return find(f"{FOLDER}/{name}", isolate=True)


def reason(implementation: Implementation) -> str:
    with pytest.raises(ImplementationFailed) as caught:
        execute(implementation, BATCH)
    return caught.value.what


@pytest.mark.slow
@pytest.mark.long
def test_an_answer_of_gigabytes_is_not_read():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = reason(isolated("overwhelming.py:AnswersGigabytes"))
    assert "bytes of tensors, expected at most" in said or "expected" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # 1 GiB: ru_maxrss is in KiB


def test_long_messages_are_cut():
    assert len(reason(isolated("overwhelming.py:RaisesMegabytes"))) < 5000
    assert len(reason(find(f"{FOLDER}/overwhelming.py:RaisesMegabytes"))) < 5000


def test_a_failure_keeps_no_tensors_of_the_implementation():
    double = find(f"{FOLDER}/overwhelming.py:KeepsTensorsInFrames")
    with pytest.raises(ImplementationFailed, match="sum 6") as caught:
        execute(double, BATCH)
    frames, error = [], caught.value.__cause__
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    assert not any("large" in frame.f_locals for frame in frames)


def test_shared_memory_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(MEMORY_VARIABLE, "1")
    said = reason(isolated("overwhelming.py:SharesGigabytes"))
    assert "GiB of memory, including shared memory; the limit is 1 GiB" in said


def test_the_memory_limit_is_described():
    assert description(3 * 2**30, RLIMIT) == (
        "memory limited to 3 GiB in each process by RLIMIT_DATA (without shared memory) and in all its processes "
        "together by a measurement every 0.25 s (shared memory included), not by a control group"
    )
    assert "RLIMIT" not in description(2**30, UNLIMITED)


def test_systems_without_limits_are_described(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert description(2**30, UNLIMITED) == "memory not limited"


def test_the_limits_of_a_worker_are_those_of_its_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(MEMORY_VARIABLE, "2.5")
    adapter = isolated("misbehaving.py:Right").adapter
    assert adapter.memory == description(5 * 2**29, RLIMIT)
    process = Path(f"/proc/{adapter.worker.pid}")
    limits = (process / "limits").read_text(encoding="utf-8")
    assert re.search(rf"^Max data size +{5 * 2**29} +{5 * 2**29} ", limits, re.MULTILINE)
    assert re.search(rf"^Max file size +{2**28} +{2**28} ", limits, re.MULTILINE)
    assert (process / "oom_score_adj").read_text(encoding="utf-8").strip() == "1000"
    adapter.worker.close()


def test_no_network_even_in_c():
    double = isolated("escaping.py:ConnectsInC")
    if double.adapter.network != NAMESPACE:
        pytest.skip("no network namespace can be made here")
    assert "Network is unreachable" in reason(double)
    assert "[(1, 'lo')]" in reason(isolated("escaping.py:RunsAnotherProgram"))


def test_a_daemon_is_found_and_ended():
    double = isolated("escaping.py:DaemonisesTwice")
    pid = double.adapter.worker.pid
    assert "left a child process running (killed)" in reason(double)
    left = [int(path.name) for path in Path("/proc").glob("[0-9]*") if "time.sleep(600)" in command(path)]
    assert not any(lives(each) and parent(each) == pid for each in left)
    double.adapter.worker.close()


def command(path: Path) -> str:
    try:
        return (path / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize("variable", [TIMEOUT_VARIABLE, MEMORY_VARIABLE])
@pytest.mark.parametrize("text", ["abc", "-1", "nan", ""])
def test_a_setting_without_a_meaning_is_one_line(variable: str, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, text)
    with pytest.raises(UnknownImplementation, match=f"^{variable} is '{text}', expected "):
        isolated("misbehaving.py:Right")


def test_modules_in_the_folder_replace_nothing_that_the_worker_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("torch", "tal_conformance", "tal_reference", "safetensors", "json", "struct", "typing"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('replaced')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert isolated("misbehaving.py:Right").name == "Right"


def test_neither_home_nor_cache_are_needed(monkeypatch: pytest.MonkeyPatch):
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    assert isolated("misbehaving.py:Right").name == "Right"


@pytest.mark.parametrize("field", ["name", "version", "precisions", "network", "assigns"])
def test_a_first_answer_without_a_field_is_refused(field: str):
    about = {
        "name": "x", "version": "1", "dialect": "d", "shows_stages": False, "precisions": [], "assigns": True,
        "computes_loss": False, "network": NAMESPACE,
    }  # fmt: skip
    check_description("x", about)
    for wrong in ({**about, field: 7.5}, {name: value for name, value in about.items() if name != field}):
        with pytest.raises(PackageUnavailable, match=f"described its adapter with {field} = "):
            check_description("x", wrong)


def test_the_bound_of_an_answer_holds_for_right_answers():
    tensors = {f"level.{number}": level for number, level in enumerate(BATCH.feature_maps)}
    bound = longest_answer(tensors | {"annotations": BATCH.annotations})
    assert 0 < bound < 2**24
    # the result includes stages, inputs and gradients
    execute(find(f"{FOLDER}/workers.py:Right", isolate=True), BATCH)


def test_folders_of_killed_processes_are_removed():
    prefix = f"tal-conformance-test-{os.getpid()}-"
    live, dead = TemporaryFolder(prefix), TemporaryFolder(prefix)
    os.close(dead._lock)
    for folder in (live, dead):
        old = time.time() - 2 * SETTLED
        os.utime(folder.path, (old, old))
    new = TemporaryFolder(prefix)
    assert (live.path.exists(), dead.path.exists(), new.path.exists()) == (True, False, True)
    live.remove()
    new.remove()
    assert not live.path.exists()
