"""The stored counts of found planted faults belong to the present catalogue of faults."""

import json
from pathlib import Path

import pytest

from tal_conformance.checks import power
from tal_conformance.mutation.plant import HIDDEN, INVISIBLE, MODES, OPEN
from tal_conformance.mutation.planted_faults import FAULTS, FAULTS_OF_USE

CATALOGUE = sorted(FAULTS | FAULTS_OF_USE)


@pytest.mark.parametrize("profile", ["dev", "ci"])
def test_the_figures_fit_the_catalogue_of_planted_faults(profile: str):
    entry = power.read_figures()[profile]
    again = f"planted faults have changed: run `tal-conformance power --profile {profile}`"
    assert sorted(entry["faults"] + entry["unmeasured"]) == CATALOGUE, again
    assert entry["planted"] + len(entry["equivalent"]) == len(entry["faults"]) * len(MODES)
    assert entry["found"] == entry["planted"] - len(entry["missed"])


def test_faults_that_ci_misses_are_exactly_those_that_are_listed_as_open():
    entry = power.read_figures()["ci"]
    for measured, table in ((entry["missed"], OPEN), (entry["equivalent"], INVISIBLE)):
        listed = [f"{name} ({HIDDEN})" for name in table[HIDDEN] if name in entry["faults"]]
        assert measured == sorted(listed)


def test_dev_finds_a_smaller_share_than_ci():
    shares = {name: entry["found"] / entry["planted"] for name, entry in power.read_figures().items()}
    assert shares["dev"] < shares["ci"]


def test_figures_are_written_by_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(power, "FILE", tmp_path / "power.json")
    assert power.worth_of("dev", whole=True)["figures"] == {}
    power.write_figures("ci", ["a (stages shown)", "a (loss alone)"], [], ["b (loss alone)"])
    power.write_figures("dev", ["a (stages shown)"], ["a (loss alone)"], ["b (loss alone)"])
    assert power.worth_of("dev", whole=True) == {
        "profile": "dev",
        "whole": True,
        "this_code": True,
        "figures": {
            "ci": {"found": 2, "planted": 2, "unmeasured": 0},
            "dev": {"found": 1, "planted": 2, "unmeasured": 0},
        },
    }
    assert power.read_figures()["dev"]["faults"] == ["a", "b"]


def test_figures_of_other_code_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(power, "FILE", tmp_path / "power.json")
    power.write_figures("ci", ["a (stages shown)"], [], [])
    content = json.loads(power.FILE.read_text(encoding="utf-8"))
    content["ci"]["code"] = "0" * 16
    power.FILE.write_text(json.dumps(content), encoding="utf-8")
    assert not power.worth_of("ci", whole=True)["this_code"]


def test_docstrings_and_comment_lines_are_not_code():
    before = 'def f():\n    """Return 1."""\n    # why\n    return 1\n'
    after = 'def f():\n    """Return one,\n\n    and nothing else.\n    """\n\n    return 1\n'
    assert power.code_lines(before) == power.code_lines(after) == "def f():\n    return 1"
    assert power.code_lines(before.replace("return 1", "return 2")) != power.code_lines(before)


def test_a_run_of_some_faults_adds_and_replaces_their_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(power, "FILE", tmp_path / "power.json")
    power.add_figures("ci", ["a (stages shown)"], [], [])
    assert not power.FILE.exists()
    power.write_figures(
        "ci", ["a (stages shown)", "d (stages shown)"], ["a (loss alone)"], ["d (loss alone)"]
    )
    content = json.loads(power.FILE.read_text(encoding="utf-8"))
    content["ci"] |= {"unmeasured": ["b", "c"], "code": "another"}
    power.FILE.write_text(json.dumps(content), encoding="utf-8")
    power.add_figures("ci", [], ["b (stages shown)"], ["b (loss alone)"])
    entry = power.read_figures()["ci"]
    assert (entry["found"], entry["planted"]) == (2, 4)
    assert entry["missed"] == ["a (loss alone)", "b (stages shown)"]
    assert entry["equivalent"] == ["b (loss alone)", "d (loss alone)"]
    assert (entry["faults"], entry["unmeasured"]) == (["a", "b", "d"], ["c"])
    power.add_figures("ci", ["a (stages shown)", "a (loss alone)"], [], [])
    entry = power.read_figures()["ci"]
    assert (entry["found"], entry["planted"]) == (3, 4)
    assert entry["missed"] == ["b (stages shown)"]
    assert entry["code"] == "another"  # the older figures were measured on other code
