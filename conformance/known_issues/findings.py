"""The catalogue of findings, and a run of one's script in a process of its own."""

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
LONGEST = 20
"""Lines of a script at most: somebody else should read it at a glance."""
SCRIPT_TIMEOUT = 300
"""Seconds that a script may take, the import of torch included."""
REQUIRED, OPTIONAL = ("title", "clause", "first", "last"), ("mended",)


class InvalidFindings(ValueError):
    """The catalogue is none; the message names the finding and what is wrong."""


class ScriptFailed(RuntimeError):
    """A script neither showed nor refuted its finding."""


@dataclass(frozen=True)
class Finding:
    """A behaviour of official code that is probably a bug.

    Attributes:
        id: its name, and its script's.
        title: one sentence.
        clause: of the specification.
        first, last: the first and the last release with which it was seen.
        script: where its script lies.
        mended: the first release without it; None while there is none.
    """

    id: str
    title: str
    clause: str
    first: Version
    last: Version
    script: Path
    mended: Version | None = None

    def expected_of(self, release: Version) -> bool:
        """Whether a release should show it."""
        return self.first <= release and (self.mended is None or release < self.mended)


@dataclass(frozen=True)
class Ran:
    """What a script came to.

    Attributes:
        finding: whose script.
        release: of Ultralytics, with which it ran.
        reproduces: the finding shows.
        output: what was expected and what observed, as the script printed them.
    """

    finding: Finding
    release: Version
    reproduces: bool
    output: str

    @property
    def problem(self) -> str | None:
        """What must be done, where it shows and should not or the other way round; None if nothing."""
        finding, release = self.finding, self.release
        if self.reproduces == finding.expected_of(release):
            return None
        if self.reproduces:
            return (
                f"finding {finding.id} shows with ultralytics {release}, which the catalogue takes for free of it: "
                f"correct first or mended in {INDEX.name}"
            )
        return (
            f"finding {finding.id} no longer reproduces: mended by ultralytics {release}, or by a release after "
            f'{finding.last}, the last that was seen with it; write mended = "{release}" into {INDEX.name}'
        )


def read_findings(index: Path = INDEX) -> tuple[Finding, ...]:
    """Every finding of the catalogue.

    Raises:
        CorruptCatalogue: it cannot be read, or says something else than it should.
    """
    try:
        content = tomllib.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidFindings(f"{index}: the catalogue cannot be read: {error}") from error
    return tuple(
        _finding(name, told, index.parent / "scripts" / f"{name}.py") for name, told in content.items()
    )


def _finding(name: str, told: Any, script: Path) -> Finding:
    if not isinstance(told, Mapping) or not all(isinstance(value, str) for value in told.values()):
        raise InvalidFindings(f"finding {name}: it must be a table of texts")
    strange = sorted({*told} ^ {*REQUIRED} - {*OPTIONAL})
    strange = [key for key in strange if key not in OPTIONAL]
    if strange:
        raise InvalidFindings(f"finding {name}: {strange[0]!r} is missing or unknown")
    if not script.is_file():
        raise InvalidFindings(f"finding {name}: there is no script {script}")
    try:
        releases = {key: Version(told[key]) for key in ("first", "last", *OPTIONAL) if key in told}
    except InvalidVersion as error:
        raise InvalidFindings(f"finding {name}: {error}") from error
    return Finding(name, told["title"], told["clause"], script=script, **releases)


def installed() -> Version:
    """The release of Ultralytics that is installed here."""
    return Version(metadata.version("ultralytics"))


def run_script(finding: Finding, release: Version) -> Ran:
    """Run a finding's script with the installed release, with settings that are nobody's and without network.

    Args:
        finding: whose script.
        release: the installed one.

    Raises:
        ScriptFailed: it raised, hung or was killed: that says nothing about the finding.
    """
    with tempfile.TemporaryDirectory(prefix="tal-conformance-finding-") as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        settings = {"YOLO_CONFIG_DIR": home, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
        try:
            done = subprocess.run(  # noqa: S603 - a script of this project
                [sys.executable, str(finding.script)],
                cwd=home,
                env=kept | settings | {"YOLO_VERBOSE": "false"},
                capture_output=True,
                text=True,
                timeout=SCRIPT_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ScriptFailed(
                f"finding {finding.id}: its script did not end within {SCRIPT_TIMEOUT} s"
            ) from error
    if done.returncode not in (0, 1) or "Traceback (most recent call last)" in done.stderr:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ScriptFailed(f"finding {finding.id}: its script failed with status {done.returncode}: {said}")
    return Ran(finding, release, done.returncode == 0, done.stdout.strip())
