"""Every clause of the reference is cited in its code, defined in the specification and tested in this folder.

The clauses are those of sections 1 to 5, the corrections of section 10 that change a value, and sections 11 to 15.
"""

import re
from pathlib import Path

import pytest

import tal_reference

COUNTS = {
    "PRE": 2, "ANC": 1, "DEC": 2, "ANN": 4, "IOU": 3,
    "TAL-CAND": 2, "TAL-MET": 1, "TAL-TOPK": 2, "TAL-CONF": 2, "TAL-NORM": 1, "TAL-TGT": 1, "TAL-EMPTY": 1,
    "LOSS-SUM": 1, "LOSS-CLS": 1, "LOSS-BOX": 1, "LOSS-DFL": 1, "LOSS-GAIN": 1, "LOSS-GRAD": 1,
    "OBB-ANN": 3, "OBB-DEC": 2, "OBB-IOU": 2, "OBB-CAND": 1, "OBB-MET": 1,
    "OBB-BOX": 1, "OBB-DFL": 1, "OBB-ANG": 1, "OBB-CLS": 1, "OBB-SUM": 1,
    "SEG-IN": 3, "SEG": 4, "SEM": 3, "SEG-SUM": 1, "S26": 4,
    "POSE-IN": 3, "POSE": 5, "POSE-SUM": 1, "P26": 5, "P26-SUM": 1, "RLE": 5,
}  # fmt: skip
NOT_ALL = {"COR": (1, 2, 3, 4, 7), "E2E": (2, 3, 4, 5, 6)}
"""Clauses that the reference computes, of groups whose other clauses are about models, data or rounding."""
CLAUSES = [f"{group}-{number + 1}" for group, count in COUNTS.items() for number in range(count)] + [
    f"{group}-{number}" for group, numbers in NOT_ALL.items() for number in numbers
]
CLAUSE = r"\b[A-Z][A-Z0-9]*(?:-[A-Z]+)?-\d+"
PAGES = Path(__file__).parents[2] / "docs"


def cited(folder: Path, pattern: str) -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path != Path(__file__))
    return {name for found in re.findall(pattern, text) for name in re.findall(CLAUSE, found)}


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_reference_cites_every_clause(clause: str):
    assert clause in cited(Path(tal_reference.__file__).parent, CLAUSE)


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_test_cites_every_clause(clause: str):
    assert clause in cited(Path(__file__).parent, r'(?s)def test_[^"]*?"""(.*?)"""')


def test_no_unknown_clause_is_cited():
    both = [cited(folder, CLAUSE) for folder in (Path(__file__).parent, Path(tal_reference.__file__).parent)]
    groups = {clause.split("-")[0] for clause in CLAUSES}
    names = {name for found in both for name in found if name.split("-")[0] in groups}
    assert names <= set(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_specification_states_every_clause(clause: str):
    pages = [
        (PAGES / name).read_text(encoding="utf-8")
        for name in ("specification.md", "specification-families.md")
    ]
    assert sum(f'<a id="{clause}"></a>' in page for page in pages) == 1
