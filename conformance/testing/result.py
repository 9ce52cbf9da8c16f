"""The result of a run for the test or notebook that started it."""

import html
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tal_reports import headline, read_log, render, result_page, summarise, terminal_table, visible

FRAME = (
    '<iframe sandbox title="TAL conformance" style="width:100%;height:{height}px;border:1px solid #8884;'
    'resize:vertical" srcdoc="{document}"></iframe>'
)
"""A page inside a notebook's cell: its styles do not reach the notebook, and scripts are off."""
HEIGHT_OF_CARDS, HEIGHT_OF_TABLE = 720, 260
"""Heights of that frame in CSS pixels, with and without a failure's card."""


@dataclass(frozen=True)
class Cause:
    """One cause of failure, on its smallest batch.

    Attributes:
        id: ten hexadecimal digits, equal for the same cause in different runs.
        verdict: `divergent`, `nondeterministic` or `error`.
        stage: the first stage that differs, or None.
        clause: the violated clause of the specification, or None.
        choice: the choice of a dialect that explains the failures, or None.
        summary: the difference in one sentence.
        case: id of the batch, or None.
        case_file: path of the batch's case file, or None.
        repeat: commands or code that judge the batch again, by name: "pytest" is a command, "python" and "example" are
            Python code.
    """

    id: str
    verdict: str
    stage: str | None
    clause: str | None
    choice: str | None
    summary: str
    case: str | None
    case_file: Path | None
    repeat: dict[str, str]


@dataclass(frozen=True)
class ConformanceResult:
    """The result of one run of the suite on one implementation.

    A notebook shows the result with the picture of the first failure.

    Attributes:
        folder: folder of the run, with log, case files and report.
        exit_status: exit status of the run, as `pytest --pyargs tal_conformance` returns it.
        limit: the time limit in seconds, if the run was stopped by it; None otherwise.
    """

    folder: Path
    exit_status: int
    limit: float | None = None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of the run's summary.json."""
        return summarise(read_log(self.folder))

    @property
    def conforms(self) -> bool:
        """True if the run passed: its exit status is 0."""
        return self.exit_status == 0

    @property
    def name(self) -> str:
        """Name of the implementation, as its adapter declares it."""
        return str(self._implementation["name"])

    @property
    def verdict(self) -> str:
        """The result as text: conforms, divergent, nondeterministic, error, inconclusive, not finished, not tested."""
        return str(self._implementation["result"])

    @property
    def counts(self) -> dict[str, int]:
        """Number of batches by verdict, such as `exact`, `within_bound` and `divergent`."""
        return dict(self._implementation["verdicts"])

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """The causes of failure, the worst first."""
        log = read_log(self.folder)
        repeats = {line.get("case"): line.get("reproduce") or {} for line in reversed(log.divergences)}
        return tuple(self._cause(line, repeats) for line in self._implementation["first_divergences"])

    @property
    def message(self) -> str:
        """The result as text: headline, table, causes, a command that repeats each cause, and the report's path."""
        implementations = self.summary["implementations"]
        finished = all(line["result"] != "not finished" for line in implementations)
        lines = [headline(implementations, finished), ""]
        if self.limit is not None:
            lines[1:1] = [f"The run was stopped after its time limit of {self.limit:g} s."]
        if not finished:
            reasons = [
                line["reason"] for line in self.summary["not_tested"] if line["implementation"] is not None
            ]
            lines[1:1] = list(dict.fromkeys(reasons))
        lines += [terminal_table(read_log(self.folder))]
        repeats = [text for cause in self.causes if (text := _first(cause.repeat))]
        if repeats:
            lines += ["", "repeat:", *(f"  {line}" for text in repeats for line in text.splitlines() if line)]
        return visible("\n".join(lines))

    def report(self, path: Path | str | None = None) -> Path:
        """Return the path of the HTML report.

        Args:
            path: file or existing folder to copy the report to; None for the report in the run's folder.

        Raises:
            OSError: the report cannot be written.
        """
        own = self.folder / "report.html"
        if not own.is_file():
            render(self.folder)
        if path is None:
            return own
        target = Path(path)
        target = target / own.name if target.is_dir() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(own, target))

    def __repr__(self) -> str:
        return f"<ConformanceResult: {visible(self.name)}: {self.verdict}, {self.folder}>"

    def __str__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        """Return HTML for a notebook's cell: headline, verdicts, and a description of each of the first failures."""
        document = result_page(read_log(self.folder))
        height = HEIGHT_OF_CARDS if self.causes else HEIGHT_OF_TABLE
        return FRAME.format(height=height, document=html.escape(document, quote=True))

    @property
    def _implementation(self) -> dict[str, Any]:
        line: dict[str, Any] = self.summary["implementations"][0]
        return line

    def _cause(self, line: dict[str, Any], repeats: dict[str | None, dict[str, str]]) -> Cause:
        file = self.folder / "cases" / f"{line['case']}.safetensors"
        fields = ("id", "verdict", "stage", "clause", "choice", "summary", "case")
        repeat = {name: text for name, text in repeats.get(line["case"], {}).items() if text}
        facts: dict[str, Any] = {name: line[name] for name in fields}
        return Cause(**facts, case_file=file if line["case"] and file.is_file() else None, repeat=repeat)


def _first(repeat: dict[str, str]) -> str:
    """Return the pytest command that repeats a failure, or else the Python code that does, or else ""."""
    return repeat.get("pytest") or repeat.get("python") or ""
