"""The number of planted faults that each profile finds, measured by the last full run of the command `power`."""

import hashlib
import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tal_conformance.core.files import PACKAGES

FILE = Path(__file__).with_name("power.json")
"""Figures by profile; `tal-conformance power --profile dev` and `--profile ci` write them."""
SOURCES = (
    "tal_reference/**/*.py",
    *(
        f"tal_conformance/{room}/**/*.py"
        for room in ("core", "batches", "implementations", "judgement", "checks")
    ),
    "tal_conformance/suite/test_*.py",
    "tal_conformance/mutation/planted_faults/**/*.py",
)
"""Patterns of the code that decides which faults are found."""
DOCSTRING = re.compile(r'^[ \t]*""".*?"""[ \t]*$', re.MULTILINE | re.DOTALL)


@cache
def source_digest() -> str:
    """Return a digest of the code that decides which faults are found, without docstrings and comment lines."""
    sha = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(PACKAGES.glob(pattern)):
            sha.update(f"{path.relative_to(PACKAGES).as_posix()}\0".encode())
            sha.update(code_lines(path.read_text(encoding="utf-8")).encode())
    return sha.hexdigest()[:16]


def code_lines(source: str) -> str:
    """Return the lines of a module that are neither part of a docstring nor whole-line comments."""
    lines = DOCSTRING.sub("", source).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def read_figures() -> dict[str, dict[str, Any]]:
    """Return by profile how many planted faults the last full run of `power` found, from `FILE`.

    Without the file the dict is empty.
    """
    if not FILE.is_file():
        return {}
    figures: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return figures


def write_figures(profile: str, found: list[str], missed: list[str], equivalent: list[str]) -> None:
    """Store the results of a full run of `power` for a profile.

    Faults that are added to the index later are entered into `unmeasured` by hand, until a run of `power` plants them.

    Args:
        profile: the profile that sets the checks' number of batches.
        found: names of the faults that were found, with their modes.
        missed: names of the faults that were not found.
        equivalent: names of the faults that change no visible result, which are not counted.

    Raises:
        OSError: the file cannot be written.
    """
    entry = {
        "measured": datetime.now(UTC).date().isoformat(),
        "code": source_digest(),
        "found": len(found),
        "planted": len(found) + len(missed),
        "missed": sorted(missed),
        "equivalent": sorted(equivalent),
        "faults": sorted({_fault_of(name) for name in (*found, *missed, *equivalent)}),
        "unmeasured": [],
    }
    _store(profile, entry)


def add_figures(profile: str, found: list[str], missed: list[str], equivalent: list[str]) -> None:
    """Add the results of a run of `power` for some faults to those of the last full run of a profile.

    Results of faults that were measured before are replaced. Every fault must have been planted in every mode. The
    results of a profile without a full run are not stored. The digest of the code remains that of the full run.

    Args:
        profile: the profile that sets the checks' number of batches.
        found: names of the faults that were found, with their modes.
        missed: names of the faults that were not found.
        equivalent: names of the faults that change no visible result.

    Raises:
        OSError: the file cannot be written.
    """
    entry = read_figures().get(profile)
    measured = {_fault_of(name) for name in (*found, *missed, *equivalent)}
    if entry is None or not measured:
        return
    modes = (entry["planted"] + len(entry["equivalent"])) // len(entry["faults"])
    before = {
        key: [name for name in entry[key] if _fault_of(name) not in measured]
        for key in ("missed", "equivalent")
    }
    changes = {
        "missed": sorted([*before["missed"], *missed]),
        "equivalent": sorted([*before["equivalent"], *equivalent]),
        "faults": sorted({*entry["faults"], *measured}),
        "unmeasured": sorted({*entry["unmeasured"]} - measured),
    }
    planted = len(changes["faults"]) * modes - len(changes["equivalent"])
    counts = {"planted": planted, "found": planted - len(changes["missed"])}
    _store(profile, entry | changes | counts)


def _fault_of(name: str) -> str:
    """Return the name of a fault without its mode, such as "beta_of_five" of "beta_of_five (loss alone)"."""
    return name.partition(" (")[0]


def _store(profile: str, entry: dict[str, Any]) -> None:
    figures = read_figures() | {profile: entry}
    text = json.dumps(dict(sorted(figures.items())), indent=1)
    FILE.write_text(f"{text}\n", encoding="utf-8")


def worth_of(profile: str, whole: bool) -> dict[str, Any]:
    """Return the number of planted faults that a profile finds, as the fields of the run log's first line.

    Args:
        profile: name of the profile.
        whole: False if the run selects some of the profile's tests or batches, for which nothing was measured.
    """
    figures = read_figures()
    return {
        "profile": profile,
        "whole": whole,
        "this_code": all(entry["code"] == source_digest() for entry in figures.values()),
        "figures": {
            name: {
                "found": entry["found"],
                "planted": entry["planted"],
                "unmeasured": len(entry["unmeasured"]),
            }
            for name, entry in figures.items()
        },
    }
