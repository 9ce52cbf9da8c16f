"""Findings: behaviours of official code that are probably bugs, each with a script that reproduces it."""

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

ROOM = Path(__file__).parent
INDEX = ROOM / "findings.toml"
MAX_SCRIPT_LINES = 20
"""Maximum number of lines of a script, so that a reader understands it at a glance."""
SCRIPT_TIMEOUT = 300
"""Time limit of a script in seconds, including the import of torch."""
REQUIRED, OPTIONAL = ("title", "batch", "clause", "first", "last"), ("mended",)


class InvalidFindings(ValueError):
    """Error: the file of findings is invalid. The message names the finding and the problem."""


class ScriptFailed(RuntimeError):
    """Error: a script failed, so that it neither reproduced nor refuted its finding."""


@dataclass(frozen=True)
class Finding:
    """A behaviour of official code that is probably a bug.

    Attributes:
        id: name of the finding and of its script.
        title: the behaviour, in one sentence.
        batch: description of the smallest batch that shows the behaviour, which is the batch of the script.
        clause: clause of the specification that the behaviour violates.
        first: the first release that reproduced the finding.
        last: the last release that reproduced the finding.
        script: path of the script that reproduces the finding.
        mended: the first release that fixes the bug; None if no release does.
    """

    id: str
    title: str
    batch: str
    clause: str
    first: Version
    last: Version
    script: Path
    mended: Version | None = None

    @property
    def releases(self) -> str:
        """Range of releases with the behaviour, as text, such as "8.4.0 to 8.4.190"."""
        end = f"fixed in {self.mended}" if self.mended else "not fixed"
        return f"{self.first} to {self.last}, {end}"

    def expected_of(self, release: Version) -> bool:
        """Return True if a release, from `first` to before `mended`, should reproduce the finding."""
        return self.first <= release and (self.mended is None or release < self.mended)


@dataclass(frozen=True)
class Ran:
    """Result of a finding's script.

    Attributes:
        finding: finding whose script ran.
        release: the release of Ultralytics that the script ran with.
        reproduces: True if the release reproduces the finding.
        output: expected and observed values, as the script printed them.
    """

    finding: Finding
    release: Version
    reproduces: bool
    output: str

    @property
    def problem(self) -> str | None:
        """Instruction to the maintainer if the result is unexpected, in one or two sentences; else None."""
        finding, release = self.finding, self.release
        if self.reproduces == finding.expected_of(release):
            return None
        if self.reproduces:
            return (
                f"finding {finding.id} reproduces with ultralytics {release}, although {INDEX.name} says that this "
                "release is not affected. Correct its `first` or `mended`"
            )
        return (
            f"finding {finding.id} no longer reproduces with ultralytics {release}: fixed by a release after "
            f'{finding.last}, the last that reproduced it. Write mended = "{release}" into {INDEX.name}'
        )


def read_findings(index: Path = INDEX) -> tuple[Finding, ...]:
    """Return every finding of the index file.

    Raises:
        InvalidFindings: the file cannot be read, or an entry is invalid.
    """
    try:
        content = tomllib.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidFindings(f"cannot read the findings {index}: {error}") from error
    return tuple(
        _finding(name, table, index.parent / "scripts" / f"{name}.py") for name, table in content.items()
    )


def _finding(name: str, table: Any, script: Path) -> Finding:
    if not isinstance(table, Mapping) or not all(isinstance(value, str) for value in table.values()):
        raise InvalidFindings(f"finding {name}: expected a table of strings, got {table!r}")
    wrong = [key for key in sorted({*table} ^ {*REQUIRED}) if key not in OPTIONAL]
    if wrong:
        problem = "is missing" if wrong[0] in REQUIRED else "is an unknown key"
        raise InvalidFindings(
            f"finding {name}: {wrong[0]!r} {problem}; keys are {', '.join((*REQUIRED, *OPTIONAL))}"
        )
    if not script.is_file():
        raise InvalidFindings(f"finding {name}: script not found: {script}")
    try:
        releases = {key: Version(table[key]) for key in ("first", "last", *OPTIONAL) if key in table}
    except InvalidVersion as error:
        raise InvalidFindings(f"finding {name}: {error}") from error
    return Finding(name, table["title"], table["batch"], table["clause"], script=script, **releases)


def installed() -> Version:
    """Return the installed release of Ultralytics."""
    return Version(metadata.version("ultralytics"))


def run_script(finding: Finding, release: Version) -> Ran:
    """Run a finding's script with the installed release, with default settings and without network.

    Args:
        finding: finding whose script runs.
        release: the installed release.

    Raises:
        ScriptFailed: the script raised, hung or was killed, which neither reproduces nor refutes the finding.
    """
    with tempfile.TemporaryDirectory(prefix="tal-conformance-finding-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        settings = {"YOLO_CONFIG_DIR": home, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
        try:
            done = subprocess.run(  # noqa: S603 - a script of this project
                [sys.executable, str(finding.script)],
                cwd=home,
                env=environment | settings | {"YOLO_VERBOSE": "false"},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=SCRIPT_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ScriptFailed(
                f"finding {finding.id}: its script took longer than {SCRIPT_TIMEOUT} s and was killed"
            ) from error
    if done.returncode not in (0, 1) or "Traceback (most recent call last)" in done.stderr:
        last = (done.stderr.strip().splitlines() or ["no output on stderr"])[-1]
        raise ScriptFailed(f"finding {finding.id}: its script failed with status {done.returncode}: {last}")
    return Ran(finding, release, done.returncode == 0, done.stdout.strip())
