"""Every clause of the specification's sections 1 to 5 is cited where it is computed, and has a test here."""

import re
from pathlib import Path

import pytest

import tal_reference

COUNTS = {
    "PRE": 2, "ANC": 1, "DEC": 2, "ANN": 4, "IOU": 3,
    "TAL-CAND": 2, "TAL-MET": 1, "TAL-TOPK": 2, "TAL-CONF": 2, "TAL-NORM": 1, "TAL-TGT": 1, "TAL-EMPTY": 1,
    "LOSS-SUM": 1, "LOSS-CLS": 1, "LOSS-BOX": 1, "LOSS-DFL": 1, "LOSS-GAIN": 1, "LOSS-GRAD": 1,
}  # fmt: skip
CLAUSES = [f"{group}-{number + 1}" for group, count in COUNTS.items() for number in range(count)]


def cited(folder: Path, pattern: str) -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path != Path(__file__))
    return {
        name for found in re.findall(pattern, text) for name in re.findall(r"[A-Z]+(?:-[A-Z]+)?-\d", found)
    }


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_reference_cites_every_clause(clause: str):
    assert clause in cited(Path(tal_reference.__file__).parent, r"[A-Z]+(?:-[A-Z]+)?-\d")


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_test_cites_every_clause(clause: str):
    assert clause in cited(Path(__file__).parent, r'(?s)def test_[^"]*?"""(.*?)"""')


def test_no_unknown_clause_is_cited():
    both = [
        cited(folder, r"[A-Z]+(?:-[A-Z]+)?-\d")
        for folder in (Path(__file__).parent, Path(tal_reference.__file__).parent)
    ]
    groups = {clause.split("-")[0] for clause in CLAUSES}
    names = {name for found in both for name in found if name.split("-")[0] in groups}
    assert names <= set(CLAUSES)
