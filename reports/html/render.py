"""report.html: one file that needs nothing else, no network and no scripts."""

import base64
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tal_reports.analysis.history import (
    comparable,
    entry_of,
    history_of,
    read_history,
    remember,
    repeats,
    with_power,
)
from tal_reports.analysis.summary import summarise, write_summary
from tal_reports.html.differences import Section, drawn
from tal_reports.html.page import Page, page_of
from tal_reports.html.pictures import draw
from tal_reports.html.tables import word
from tal_reports.log.reader import read_log
from tal_reports.log.writer import write_whole
from tal_reports.text import counted, visible

NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"


def render(run_dir: Path | str, into: Path | str | None = None) -> Path:
    """Read the log of a run, finished or killed, and write its report.html and summary.json.

    A finished run is also remembered in `history.jsonl` beside its folder, and compared with the last one there. One
    that judged case files is not: it says nothing of how often what is drawn fails.

    Args:
        run_dir: the run's folder, or a log file.
        into: where to write, if not into the run's folder.

    Returns:
        The report's path.

    Raises:
        LogError: there is no log, or none that this version reads.
        OSError: the log cannot be read, or the report not written.
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
    if into is None and not repeats(log):
        with suppress(
            OSError
        ):  # the report is there; that its parent folder cannot be written takes nothing from it
            remember(history, entry)
    return path


def html_of(page: Page) -> str:
    """The page as one HTML document."""
    style, script = _asset("style.css"), _asset("script.js")
    policy = _policy(f"style-src {_source(style)}", f"script-src {_source(script)}", "img-src data:")
    template = _environment().get_template("report.html.j2")
    # Here, at the end, for all of the page: no name or message can slip past.
    return visible(template.render(page=page, policy=policy, style=style, script=script))


def write_picture(path: Path, picture: dict[str, Any], headline: str, lines: Sequence[str] = ()) -> None:
    """Write the picture of one image as an HTML document of its own, without scripts.

    Args:
        path: where to.
        picture: what is drawn, as `log.schema.json` says.
        headline: what it shows, in a few words.
        lines: sentences above it.

    Raises:
        OSError: it cannot be written.
    """
    style = _asset("style.css")
    told = {"headline": headline, "lines": lines, "drawing": draw(picture), "style": style}
    policy = _policy(f"style-src {_source(style)}")
    write_whole(path, visible(_environment().get_template("picture.html.j2").render(policy=policy, **told)))


def write_differences(path: Path, headline: str, lines: Sequence[str], sections: Sequence[Section]) -> None:
    """Write what differs between two implementations as an HTML document of its own, without scripts.

    Args:
        path: where to.
        headline: who is compared, in a few words.
        lines: sentences about all of it.
        sections: what differs, each with a picture.

    Raises:
        OSError: it cannot be written.
    """
    style = _asset("style.css")
    told = {"headline": headline, "lines": lines, "sections": drawn(sections), "style": style}
    policy = _policy(f"style-src {_source(style)}")
    write_whole(
        path, visible(_environment().get_template("differences.html.j2").render(policy=policy, **told))
    )


def _policy(*allowed: str) -> str:
    """What a page may load: nothing but what is in it."""
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
    environment.globals["shy"] = Markup(
        "normali&shy;sation"
    )  # the one stage whose name is too long for its place
    return environment


@cache
def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  (our own file, in an element of its own)


def _source(content: str) -> str:
    """A style or script as Content-Security-Policy names it: allowed as it is, and no other."""
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
