"""The badge of a run: its message is the worst result, its SVG is well-formed whatever the log contains."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.common.run_logs import HOSTILE, batch, failing, implementation, passing, run_line, write

from tal_reports import read_log, summarise
from tal_reports.__main__ import main
from tal_reports.badge import COLOURS, badge_of, svg_of

ONE = [("run", run_line([implementation()])), *(("batch", batch(n)) for n in range(9)), ("end", {"exit": 0})]


@pytest.mark.parametrize(
    ("lines", "message", "state"),
    [
        (ONE, "conforms to ultralytics-8.4.190", "conforms"),
        (passing(), "conforms", "conforms"),
        (failing(), "diverges", "fails"),
        ([*ONE[:-1], ("end", {"exit": 1})], "failed", "fails"),
        ([*ONE[:-1], ("tests", {"implementation": "ultralytics", "planned": 5, "finished": 3}), ONE[-1]],
         "did not finish", "unproven"),
        ([("run", run_line([implementation()])), ("end", {"exit": 5})], "was not tested", "unproven"),
    ],
)  # fmt: skip
def test_the_message_is_the_worst_result(lines: list, message: str, state: str, run_dir: Path):
    badge = badge_of(summarise(read_log(write(run_dir, lines))))
    assert (badge["message"], badge["color"]) == (message, COLOURS[state])
    assert badge["isError"] == (state == "fails")


def test_the_command_writes_svg_and_json(run_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    write(run_dir, ONE)
    assert main(["badge", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run_dir / "badge.svg"), str(run_dir / "badge.json")]
    data = json.loads((run_dir / "badge.json").read_text())
    assert {"schemaVersion": 1, "label": "TAL conformance"}.items() <= data.items()
    root = ET.parse(run_dir / "badge.svg").getroot()
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")] == [
        data["label"],
        data["message"],
    ]
    assert main(["badge", str(tmp_path / "none")]) == 2


def test_the_svg_is_well_formed_whatever_a_dialect_is_called(run_dir: Path):
    lines = [("run", run_line([implementation(dialect=HOSTILE)])), *ONE[1:]]
    picture = svg_of(badge_of(summarise(read_log(write(run_dir, lines)))))
    root = ET.fromstring(picture)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg",
        "title",
        "rect",
        "g",
        "text",
    }
    assert picture.isprintable() or picture.rstrip("\n").isprintable()


@pytest.mark.parametrize("colour", COLOURS.values())
def test_white_text_is_readable_on_every_colour(colour: str):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5  # WCAG 2 AA
