"""The result of a run as a small page: headline, verdicts, and a card for each of the first causes."""

from typing import Any

from tal_reports.analysis.causes import causes
from tal_reports.analysis.headline import headline, result_of
from tal_reports.analysis.summary import failures_of, summarise
from tal_reports.html.cards import card_of
from tal_reports.html.render import _asset, _environment, _policy, _source
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import counted, visible

MAX_CARDS = 3
"""Number of causes that the page has a card for."""
CHARACTERS = 400_000
"""Approximate limit of the HTML of each picture, in characters."""


def result_page(log: Log) -> str:
    """Return the result of a run as an HTML document without scripts, for a cell of a notebook."""
    summary, style = summarise(log), _asset("style.css")
    found = causes(failures_of(log), log.stages, log.batches)
    titles = log.run.get("clauses") or {}
    cards = [
        card_of(log.folder, cause, at == 0, CHARACTERS, titles=titles)
        for at, cause in enumerate(found[:MAX_CARDS])
    ]
    implementations = summary["implementations"]
    finished = all(line["result"] != "not finished" for line in implementations)
    worth = (summary["worth"] or {}).get("words", "")
    page = (
        _environment()
        .get_template("result.html.j2")
        .render(
            policy=_policy(f"style-src {_source(style)}"),
            style=style,
            headline=headline(implementations, finished),
            verdict=next((line["result"] for line in implementations if line["result"] in FAILING), ""),
            lines=[_line(line, worth) for line in implementations],
            cards=cards,
            more=len(found) - len(cards),
            folder=str(log.folder),
        )
    )
    return visible(page)


def _line(line: dict[str, Any], worth: str) -> str:
    """Return an implementation's result and its numbers of batches in one sentence."""
    counts = [f"{line['verdicts'][v]:,} {v.replace('_', ' ')}" for v in VERDICTS if line["verdicts"][v]]
    version = f" {line['version']}" if line["version"] else ""
    dialect = f", held to {line['dialect']}" if line["dialect"] else ""
    numbers = f": {', '.join(counts)}" if counts else ""
    return f"{line['name']}{version}{dialect}: {result_of(line, worth)}, {counted(line['batches'], 'batch')}{numbers}."
