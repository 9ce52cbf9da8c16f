"""Write report.html: one self-contained file that needs neither a network nor scripts."""

import base64
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tal_reports.analysis.case_index import write_case_index
from tal_reports.analysis.history import (
    comparable,
    entry_of,
    history_of,
    read_history,
    remember,
    repeats,
    with_power,
)
from tal_reports.analysis.summary import is_complete, summarise, write_summary
from tal_reports.html.differences import Section, prepare
from tal_reports.html.page import Page, page_of
from tal_reports.html.pictures import draw
from tal_reports.html.tables import word
from tal_reports.log.reader import read_log
from tal_reports.log.writer import write_whole
from tal_reports.text import counted, visible

NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"


def render(run_dir: Path | str, into: Path | str | None = None) -> Path:
    """Read the log of a finished or killed run, and write its report.html, summary.json and table of cases.

    The run is compared with the last comparable entry of `history.jsonl` beside its folder. A finished run is added to
    that history, unless it judged case files: their results say nothing about the failure rate of generated batches.

    Args:
        run_dir: the folder of the run, or a log file.
        into: folder to write to; None for the folder of the run, and only then the run is added to the history.

    Returns:
        The path of the report.

    Raises:
        LogError: no readable log was found.
        OSError: the log cannot be read, or the report cannot be written.
    """
    log = read_log(run_dir)
    folder = log.folder if into is None else Path(into)
    summary = summarise(log)
    write_summary(summary, folder)
    path = folder / NAME
    entry, history = entry_of(log, summary), history_of(log.folder)
    known = read_history(history)
    entries = [*comparable(known, entry), entry]
    write_whole(path, html_of(page_of(log, summary, entries, with_power(known, entry))))
    if into is None:
        with suppress(OSError):  # the report is complete without the table
            write_case_index(log, folder)
    if into is None and not repeats(log):
        whole = all(is_complete(line) for line in summary["implementations"])
        with suppress(OSError):  # the report is complete without the history
            if whole:  # in the history, an unfinished run would make causes look fixed
                remember(history, entry)
    return path


def html_of(page: Page) -> str:
    """Return the data of a report as one HTML document."""
    style, script = _asset("style.css"), _asset("script.js")
    policy = _policy(f"style-src {_source(style)}", f"script-src {_source(script)}", "img-src data:")
    template = _environment().get_template("report.html.j2")
    # The whole page is escaped at once, so that no name or message can be missed.
    return visible(template.render(page=page, policy=policy, style=style, script=script))


def write_picture(path: Path, picture: dict[str, Any], headline: str, lines: Sequence[str] = ()) -> None:
    """Write the picture of one image as an HTML document of its own, without scripts.

    Args:
        path: file to write.
        picture: a picture as `log.schema.json` describes it.
        headline: the heading.
        lines: sentences above the picture.

    Raises:
        OSError: the file cannot be written.
    """
    style = _asset("style.css")
    values = {"headline": headline, "lines": lines, "drawing": draw(picture), "style": style}
    policy = _policy(f"style-src {_source(style)}")
    write_whole(path, visible(_environment().get_template("picture.html.j2").render(policy=policy, **values)))


def write_differences(path: Path, headline: str, lines: Sequence[str], sections: Sequence[Section]) -> None:
    """Write the differences between two implementations as an HTML document of its own, without scripts.

    Args:
        path: file to write.
        headline: the heading, with the names of both implementations.
        lines: sentences above the sections.
        sections: a section for each difference.

    Raises:
        OSError: the file cannot be written.
    """
    style = _asset("style.css")
    values = {"headline": headline, "lines": lines, "sections": prepare(sections), "style": style}
    policy = _policy(f"style-src {_source(style)}")
    write_whole(
        path, visible(_environment().get_template("differences.html.j2").render(policy=policy, **values))
    )


def _policy(*allowed: str) -> str:
    """Return a Content-Security-Policy that allows a page to load only the given inline content."""
    return "; ".join(("default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["word"] = word
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["num"] = lambda number: f"{number:.4g}"
    environment.filters["counted"] = counted
    # the only stage whose name is too long for its box
    environment.globals["shy"] = Markup("normali&shy;sation")
    return environment


@cache
def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  (a file of this package)


def _source(content: str) -> str:
    """Return the hash of a style or script, as a source of the Content-Security-Policy."""
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
