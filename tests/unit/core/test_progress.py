"""The progress of long operations is shown by a bar on a terminal, and by plain lines elsewhere."""

import io
import sys

import pytest

from tal_conformance.core import progress as module
from tal_conformance.core.progress import progress


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace standard error by a stream that claims to be a terminal, after pytest's capture has started."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]):
    with progress("Installing releases", 2) as advance:
        advance("ultralytics==8.0.0")
        advance("ultralytics==8.0.1")
    assert capsys.readouterr().err.splitlines() == [
        "Installing releases: 2 to do",
        "Installing releases: 1 of 2: ultralytics==8.0.0",
        "Installing releases: 2 of 2: ultralytics==8.0.1",
    ]


def test_a_single_step_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("Looking for the cause", 1) as advance, progress("Judging", 3) as three:
        now[0] = 100
        advance()
        three(steps=3)
    assert capsys.readouterr().err.splitlines() == ["Looking for the cause ...", "Judging: 3 to do"]


def test_the_total_may_be_unknown(capsys: pytest.CaptureFixture[str]):
    with progress("Searching") as advance:
        advance("first", steps=3)
    assert capsys.readouterr().err.splitlines() == ["Searching ...", "Searching: 3: first"]


def test_bare_counts_are_printed_every_few_seconds_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("Judging", 100) as advance:
        for second in range(25):
            now[0] = second
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "Judging: 100 to do",
        "Judging: 11 of 100, 0:01:21 left",  # 10 s for 11 steps: 89 / 11 * 10 = 80.9 s
        "Judging: 21 of 100, 0:01:15 left",
    ]


def test_the_time_that_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """It is stated with every line after some seconds, except if the total is unknown or everything is done."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("Judging", 4) as advance, progress("Searching") as unknown:
        now[0] = 9
        advance("early")
        now[0] = 7200
        advance("late")
        unknown("found")
        advance("last", steps=2)
    assert capsys.readouterr().err.splitlines()[2:] == [
        "Judging: 1 of 4: early",
        "Judging: 2 of 4, 2:00:00 left: late",
        "Searching: 1: found",
        "Judging: 4 of 4: last",
    ]


def test_nothing_is_written_to_standard_output(monkeypatch: pytest.MonkeyPatch):
    terminal = use_terminal(monkeypatch)
    results = io.StringIO()
    monkeypatch.setattr(sys, "stdout", results)
    with progress("Judging", 1) as advance:
        advance("one")
        print("result")
    assert results.getvalue() == "result\n"
    assert "one" in terminal.getvalue()


def test_on_a_terminal_there_is_a_bar_and_lines_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch):
    terminal = use_terminal(monkeypatch)
    with progress("Judging [x]", 3) as advance:
        advance("a [bold]line[/bold]")
    shown = terminal.getvalue()
    assert "a [bold]line[/bold]" in shown
    assert "Judging [x]" in shown
    assert "1/3" in shown or "0/3" in shown
    assert "left:" in shown


def test_bars_nest_and_an_error_closes_them(monkeypatch: pytest.MonkeyPatch):
    terminal = use_terminal(monkeypatch)

    def fail() -> None:
        with progress("Outer", 2) as outer:
            outer()
            with progress("Inner", 1):
                raise ValueError("inner")

    with pytest.raises(ValueError, match="inner"):
        fail()
    assert not module._open_bars
    with progress("Again", 1) as advance:
        advance("again")
    assert "again" in terminal.getvalue()
