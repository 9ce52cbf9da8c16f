"""The table and the summary lines that a run prints at its end."""

from collections.abc import Collection
from itertools import accumulate
from typing import Any

from tal_reports.analysis.compare import change_sentence, compare
from tal_reports.analysis.folding import identified_in_words
from tal_reports.analysis.headline import has_worth, result_of
from tal_reports.analysis.history import entry_of, history_of, previous, read_history
from tal_reports.analysis.summary import NO_BATCH, PARTLY, summarise, unsupported_sentence
from tal_reports.html.render import NAME
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import counted, listed, shortened, visible, wrapped_rows

ALWAYS = ("exact", "within_bound", "admissible", "inconclusive", "divergent", "error")
"""Verdicts that have a column in the table even if no batch has them."""
DISPENSABLE = (
    "worth",
    "inconclusive",
    "admissible",
    "dialect",
    "version",
    "within_bound",
    "exact",
    "error",
    "divergent",
)
"""Parts of the table that are left out, in this order, if it is too wide: columns, and what a pass is worth.

A line at the beginning of a run names version and dialect. Columns of verdicts that a batch has are never left out.
"""
WORTH = "worth"
"""Name of the clause that says what a pass is worth, among the parts of the table that may be left out."""
TABLE_WIDTH = 100
"""Number of characters of a line in a terminal of ordinary width, which wraps longer lines."""
UNSUPPORTED = "not supported: "
"""Beginning of the reason for a test that is skipped because the adapter excludes a way of calling."""
MAX_WIDTH = 36
"""Maximum number of characters of a name."""
MAX_ROWS = 12
"""Maximum number of rows of the causes of all failing implementations. Each has at least `LEAST_ROWS`; its first cause
is always printed."""
LEAST_ROWS = 2
"""Minimum number of rows for the causes of one implementation: stage and clause, and what was found."""
DETAIL_ROWS = 6
"""Maximum number of rows of further sentences on what all failing implementations compute."""
NOTE_LENGTH = 40
"""Maximum number of characters of the note that replaces the middle part of a text."""


def terminal_table(log: Log, brief: bool = False) -> str:
    """Return the results as plain text: verdicts by implementation, causes, scopes, untested parts, report.

    The text has no control characters, whatever the log contains.

    Args:
        log: the log of the run.
        brief: True to leave out scopes and most remarks about what was not tested, which the report has too.
    """
    summary = summarise(log)
    identified = [line for line in summary["implementations"] if line["identification"]]
    failing = sum(bool(line["first_divergences"]) for line in summary["implementations"])
    rows = max(LEAST_ROWS, MAX_ROWS // max(1, failing))
    blocks = [
        _all_identified(identified),
        _table(summary["implementations"], (summary["worth"] or {}).get("words", "")),
        *(_divergences(line, rows) for line in summary["implementations"]),
    ]
    scopes, remarks = _scopes(summary["scopes"]), _not_tested(summary)
    problems = [_line(problem) for problem in summary["problems"]]
    report = log.folder / NAME
    where = visible(f"report: {report}" if report.is_file() else f"run: {log.folder}")
    if brief:
        further = [*problems, *_left_out(log, scopes, remarks), _since(log, summary), where]
        blocks.append("\n".join(filter(None, further)))
    else:
        blocks += ["\n".join(scopes), "\n".join([*remarks, *problems]), _since(log, summary), where]
    return "\n\n".join(block for block in blocks if block)


def _all_identified(implementations: list[dict[str, Any]]) -> str:
    """Return the explanations of all implementations' failures; those with details share `DETAIL_ROWS` rows."""
    found = [
        (line["name"], *identified_in_words(line["identification"], brief=True)) for line in implementations
    ]
    rows = DETAIL_ROWS // max(1, sum(bool(details) for _, _, details in found))
    return "\n".join(_identified(*words, rows) for words in found)


def _identified(name: str, sentence: str, details: list[str], rows: int) -> str:
    """Return text that names the dialect and choices that explain an implementation's failures, and alternatives.

    Args:
        name: name of the implementation.
        sentence: what explains its failures.
        details: further sentences.
        rows: maximum number of rows after the first sentence.
    """
    lines = [f"{_word(name)}: {sentence}"]
    for detail in details:
        line = f"  {_in_two_rows(detail, 2)}"
        rows -= wrapped_rows(line, TABLE_WIDTH)
        if rows >= 0:
            lines.append(line)
    return "\n".join(visible(line.replace("\n", " ")) for line in lines)


def _since(log: Log, summary: dict[str, Any]) -> str:
    """Return a sentence about the change since the last comparable run; "" without an earlier run."""
    entry = entry_of(log, summary)
    before = previous(read_history(history_of(log.folder)), entry)
    if before is None:
        return ""
    change = compare(before, entry)
    lines = [f"since run {before['run']}: {change_sentence(change)}"]
    lines += [f"  {_word(name)}: {was} -> {became}" for name, was, became in change.results]
    return "\n".join(visible(" ".join(shortened(line, 300).split(" "))) for line in lines)


def _table(implementations: list[dict[str, Any]], worth: str) -> str:
    """Return the verdicts of each implementation as a table of at most `TABLE_WIDTH` characters if that is possible.

    A table that is too wide lacks the parts of `DISPENSABLE`; what a pass is worth is then a line of its own.
    """
    if not implementations:
        return "No implementation was tested."
    counted_verdicts = {v for line in implementations for v in VERDICTS if line["verdicts"][v]}
    verdicts = [v for v in VERDICTS if v in ALWAYS or v in counted_verdicts]
    left_out: list[str] = []
    text = ""
    for further in ("", *(part for part in DISPENSABLE if part not in counted_verdicts)):
        left_out.append(further)
        text = _table_without(left_out, implementations, verdicts, worth)
        if max(map(len, text.splitlines())) <= TABLE_WIDTH:
            break
    footnote = _worth_line(implementations, worth) if WORTH in left_out else ""
    return f"{text}\n{footnote}".rstrip()


def _worth_line(implementations: list[dict[str, Any]], worth: str) -> str:
    """Return a line that says what `conforms` is worth; it names the task if rows of other tasks conform too."""
    conforming = [line for line in implementations if line["result"] == "conforms"]
    if not worth or not any(map(has_worth, conforming)):
        return ""
    task = "" if all(map(has_worth, conforming)) else " in the task detect"
    return f"conforms{task}: {worth}"


def _table_without(
    left_out: Collection[str], implementations: list[dict[str, Any]], verdicts: list[str], worth: str
) -> str:
    words = [name for name in ("name", "version", "dialect") if name not in left_out]
    columns = [verdict for verdict in verdicts if verdict not in left_out]
    titles = ["implementation", *words[1:], "batches", *(v.replace("_", " ") for v in columns), "result"]
    rows = [titles, []]
    for line in implementations:
        numbers = (line["batches"], *(line["verdicts"][verdict] for verdict in columns))
        result = visible(result_of(line, "" if WORTH in left_out else worth))
        rows.append([*(_word(line[name]) for name in words), *(f"{number:,}" for number in numbers), result])
    widths = [max(map(len, column)) for column in zip(*filter(None, rows), strict=True)]
    rows[1] = ["-" * width for width in widths]
    numeric = range(len(words), len(widths) - 1)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in numeric else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _divergences(implementation: dict[str, Any], rows: int) -> str:
    """Return the causes of an implementation's failures that fit into `rows` rows, and the number of the others."""
    causes = [
        _divergence(implementation["name"], cause, rows) for cause in implementation["first_divergences"]
    ]
    ends = list(accumulate(wrapped_rows(cause, TABLE_WIDTH) for cause in causes))
    lines = [cause for number, cause in enumerate(causes) if not number or ends[number] <= rows]
    if len(causes) > len(lines):
        lines.append(f"  and {counted(len(causes) - len(lines), 'more cause')} in the report")
    if not causes and implementation["result"] in FAILING:
        lines.append(f"{_word(implementation['name'])}: {implementation['result']}; see the report")
    return "\n".join(lines)


def _divergence(name: str, cause: dict[str, Any], rows: int) -> str:
    """Return a cause: its stage, clause and case, what was found, and, if there is room in `rows`, what follows."""
    where = f" at {cause['stage']}" if cause["stage"] else ""
    where += f" ({cause['clause']})" if cause["clause"] else ""
    case = f", case {cause['case']}" if cause["case"] else ""
    choice = f"  {cause['choice']}; " if cause["choice"] else "  "
    lines = [
        f"{_word(name)}: {cause['verdict']}{where}{case}",
        choice + _in_two_rows(cause["summary"], len(choice) + TABLE_WIDTH * (rows <= LEAST_ROWS)),
    ]
    if rows < MAX_ROWS // 2:
        return "\n".join(visible(line) for line in lines)
    stages = list(dict.fromkeys(part["stage"] or "before any stage" for part in cause["follows"]))
    others = [stage for stage in stages if stage != cause["stage"]]
    if others:
        lines.append(f"  this cause also leads to failures at {listed(others)}")
    return "\n".join(visible(line) for line in lines)


def _in_two_rows(text: str, indentation: int) -> str:
    """Return the text without its middle part if it does not fit into two rows of a terminal after `indentation`."""
    words = " ".join(visible(" ".join(text.split())).split())
    room = 2 * TABLE_WIDTH - indentation
    return words if len(words) <= room else shortened(words, max(room - NOTE_LENGTH, NOTE_LENGTH))


def _scopes(scopes: list[dict[str, Any]]) -> list[str]:
    """Return lines about the completely judged sets of images, one for each implementation and device."""
    lines = []
    for name, device in dict.fromkeys((scope["implementation"], scope["device"]) for scope in scopes):
        own = [scope for scope in scopes if (scope["implementation"], scope["device"]) == (name, device)]
        whole = [scope for scope in own if scope["conforms"]]
        images = sum(scope["images"] for scope in whole)
        results = [f"all {images:,} images of {counted(len(whole), 'small scope')} conform"] if whole else []
        failing = [shortened(scope["scope"], 60) for scope in own if not scope["conforms"]]
        results += [f"not all images of {', '.join(failing)} conform"] if failing else []
        lines.append(f"{_word(name)} on {device}: {'; '.join(results)}")
    return [visible(line) for line in lines]


def _not_tested(summary: dict[str, Any]) -> list[str]:
    lines = [
        ": ".join(filter(None, ("not tested", line["implementation"], line["device"], line["reason"])))
        for line in summary["not_tested"]
        if line["device"]
        or line["reason"] == NO_BATCH
        or PARTLY in line["reason"]
        or line["implementation"] is None
    ]
    lines += _not_supported(summary["not_tested"])
    lines += [
        f"not supported: {line['name']}: {sentence}"
        for line in summary["implementations"]
        if (sentence := unsupported_sentence(line))
    ]
    return list(map(_line, lines))


def _line(text: str) -> str:
    """Return a remark as one line of at most 300 characters."""
    return visible(" ".join(shortened(text, 300).split()))


def _left_out(log: Log, scopes: Collection[str], remarks: Collection[str]) -> list[str]:
    """Return the remarks that no brief output leaves out, and a line that says what the report has besides."""
    kept = [remark for remark in remarks if remark.endswith(NO_BATCH)]
    left_out = len(remarks) - len(kept)
    others = [f"{counted(left_out, 'remark')} on what was not tested"] if left_out else []
    others += ["the times of benchmarks"] if log.benchmarks else []
    others += ["the results of small scopes"] if scopes else []
    return [*kept, *([f"also in the report: {listed(others)}"] if others else [])]


def _not_supported(lines: list[dict[str, Any]]) -> list[str]:
    """Return one line for each implementation that declares not to support ways of calling."""
    declared: dict[str, list[str]] = {}
    for line in lines:
        if line["implementation"] is not None and str(line["reason"]).startswith(UNSUPPORTED):
            what = str(line["reason"]).removeprefix(UNSUPPORTED).partition(" (")[0]
            declared.setdefault(line["implementation"], []).append(what)
    return [f"not supported: {name}: {len(ways)}: {'; '.join(ways)}" for name, ways in declared.items()]


def _word(text: str | None) -> str:
    word = " ".join(visible(text or "unknown").split())
    return word if len(word) <= MAX_WIDTH else f"{word[: MAX_WIDTH - 1]}…"
