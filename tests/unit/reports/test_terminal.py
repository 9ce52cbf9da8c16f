"""The table of results that is printed at the end of a run."""

from pathlib import Path

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import HOSTILE, batch, divergence, implementation, run_line
from tests.unit.reports.analysis.test_folding import explained, identification

from tal_reports import read_log, render, terminal_table
from tal_reports.text import wrapped_rows


def table_of(folder: Path, lines: factory.Lines) -> str:
    return terminal_table(read_log(factory.write(folder, lines)))


def test_a_run_that_conforms(run_dir: Path):
    factory.write(run_dir, factory.passing(90))
    report = render(run_dir)
    table = terminal_table(read_log(run_dir)).splitlines()
    assert table[0].split() == [
        *(
            "implementation",
            "version",
            "batches",
            "exact",
            "within",
            "bound",
            "divergent",
            "error",
        ),
        "result",
    ]
    numbers = ["45", "40", "5", "0", "0"]
    assert table[2].split() == ["ultralytics", "8.4.190", *numbers, "conforms"]
    assert table[-3:] == ["not tested: cuda: no such device", "", f"report: {report}"]


@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("digits", [2, 9])
@pytest.mark.parametrize("length", [5, 36])
def test_lines_of_the_table_are_not_wrapped(run_dir: Path, tasks: int, digits: int, length: int):
    """Columns without information are left out of a wide table, columns with failures never."""
    names = [f"{'n' * length}{number}"[-length:] for number in range(tasks)]
    lines = factory.failing(1, 9)
    lines[0][1]["implementations"] = [implementation(name, version="8" * digits) for name in names]
    lines[1:-1] = [("batch", batch(5, name)) for name in names]
    lines[-1:-1] = [("divergence", divergence(name=names[0]))]
    table = table_of(run_dir, lines).split("\n\n")[0].splitlines()
    assert len(table) >= 2 + tasks
    assert "divergent" in table[0]
    assert max(map(len, table)) <= 100


def test_first_divergences_have_stage_clause_case_and_summary(run_dir: Path):
    table = table_of(run_dir, factory.failing(1))
    expected = (
        "my-assigner: divergent at conflict (TAL-CONF-1), case 0000c0ffee00\n"
        "  an anchor goes to a ground truth that it does not overlap most\n"
    )
    assert expected in table
    assert f"run: {run_dir}" in table


def test_a_brief_table_leaves_to_the_report_what_no_failure_needs(run_dir: Path):
    lines = factory.failing(1)
    lines.insert(-1, ("not_tested", {"implementation": None, "device": "cuda", "reason": "no such device"}))
    log = read_log(factory.write(run_dir, lines))
    whole, brief = terminal_table(log), terminal_table(log, brief=True)
    assert "not tested: cuda: no such device" in whole.splitlines()
    assert "no such device" not in brief
    assert "\nalso in the report: 1 remark on what was not tested" in brief
    assert len(brief.splitlines()) <= len(whole.splitlines())
    assert brief.startswith(whole.split("\n\n")[0])


def test_a_brief_table_says_what_was_not_judged_at_all(run_dir: Path):
    lines = factory.failing(1)
    run = next(line for kind, line in lines if kind == "run")
    run["implementations"] = [*run["implementations"], implementation("idle")]
    text = terminal_table(read_log(factory.write(run_dir, lines)), brief=True)
    assert any(line.startswith("not tested: idle") for line in text.splitlines())


@pytest.mark.parametrize("choice", ["", "plain IoU in place of CIoU in the assignment"])
@pytest.mark.parametrize("length", [60, 190, 2000])
def test_causes_fit_on_a_screen_that_wraps_long_lines(run_dir: Path, length: int, choice: str):
    """At most 12 rows describe the causes of an implementation, and a last row has the number of the others."""
    lines = factory.failing(9)
    failures = [
        line for kind, line in lines if kind == "divergence" and line["implementation"] == "my-assigner"
    ]
    for number, line in enumerate(failures):
        line["summary"] = f"{number} {'s' * length} end"
    if choice:
        causes = [explained(f"{choice} {number}", line) for number, line in enumerate(failures)]
        lines.insert(-1, ("identification", identification(*causes)))
    blocks = table_of(run_dir, lines).split("\n\n")
    (text,) = [block for block in blocks if block.startswith("my-assigner: divergent at")]
    assert 4 <= wrapped_rows(text, 100) <= 12 + 1
    assert all(wrapped_rows(line, 100) <= 2 for line in text.splitlines())
    assert " end" in text
    assert "more causes in the report" in text
    assert ("characters left out" in text) == (length == 2000 or (length == 190 and bool(choice)))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_causes_of_several_implementations_share_the_screen(run_dir: Path, number: int):
    names = [f"mine-{n}" for n in range(number)]
    lines = factory.failing(1, 9)
    lines[0][1]["implementations"] = [implementation(name) for name in names]
    lines[1:-1] = [("batch", batch(5, name)) for name in names]
    lines[-1:-1] = [
        ("divergence", divergence(name=name, case=f"{at}{cause}", summary=f"{cause} {'s' * 150} end"))
        for at, name in enumerate(names)
        for cause in range(9)
    ]
    text = table_of(run_dir, lines)
    causes = [block for block in text.split("\n\n") if block.startswith("mine") and " divergent at" in block]
    assert len(causes) == number  # each has one
    notes = sum("more cause" in block for block in causes)
    assert sum(wrapped_rows(block, 100) for block in causes) <= 12 + notes
    assert len(text.splitlines()) < 30


@pytest.mark.slow
def test_many_are_summed_up(run_dir: Path):
    table = table_of(run_dir, factory.failing(200, batches=30))
    assert "more causes in the report" in table
    assert len(table.splitlines()) < 50


def test_an_implementation_that_could_not_be_loaded_has_a_reason(run_dir: Path):
    absent = {"implementation": "nope", "device": None, "reason": "no module named nope"}
    table = table_of(
        run_dir,
        [
            ("run", run_line([implementation("nope", capabilities=[])])),
            ("not_tested", absent),
            ("end", {"exit": 1}),
        ],
    )
    assert "nope: error\n  no module named nope" in table


def test_ways_of_calling_that_are_not_supported_are_counted(run_dir: Path):
    reasons = [f"not supported: calling in the way '{way}' (attribute)" for way in ("compile", "threads")]
    lines = factory.passing(9)
    declared = [
        ("not_tested", {"implementation": "ultralytics", "device": None, "reason": reason})
        for reason in reasons
    ]
    table = table_of(run_dir, [*lines[:-1], *declared, lines[-1]])
    expected = "not supported: ultralytics: 2: calling in the way 'compile'; calling in the way 'threads'"
    assert expected in table.splitlines()


def test_control_characters_do_not_reach_the_terminal(run_dir: Path):
    lines = [
        (
            "run",
            run_line(
                [implementation(HOSTILE, version=HOSTILE, dialect=HOSTILE + "\r\n")],
                devices={HOSTILE: HOSTILE},
            ),
        ),
        ("batch", batch(name=HOSTILE)),
        ("divergence", divergence(name=HOSTILE, summary=HOSTILE + "\n" * 50, case=HOSTILE, clause=HOSTILE)),
        ("not_tested", {"implementation": HOSTILE, "reason": HOSTILE}),
    ]
    table = table_of(run_dir, lines)
    assert not [character for character in table if not (character.isprintable() or character == "\n")]
    assert max(map(len, table.splitlines())) < 400
    assert len(table.splitlines()) < 20
    table.encode()


def test_a_killed_run_says_so(run_dir: Path):
    assert "The run did not finish" in table_of(run_dir, factory.passing(9)[:-1])


def test_no_implementation(run_dir: Path):
    assert "No implementation was tested." in table_of(
        run_dir, [("run", run_line() | {"implementations": []})]
    )


def test_the_change_since_the_last_run(tmp_path: Path):
    first = factory.write(tmp_path / "a", factory.failing(1, 9))
    render(first)
    assert "since run" not in terminal_table(read_log(first))
    lines = factory.failing(0, 9)
    lines[-1:-1] = [("batch", factory.batch(5, "my-assigner"))]
    second = factory.write(tmp_path / "b", lines)
    render(second)
    text = terminal_table(read_log(second)).split("since run ")[1]
    assert text.startswith("a: 1 fixed.\n  my-assigner: divergent -> conforms\n")
