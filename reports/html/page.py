"""The report from top to bottom, as data for the templates. Each module `page_*` prepares some of the sections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tal_reports.analysis.compare import compare
from tal_reports.analysis.folding import causes_of
from tal_reports.analysis.history import Entry
from tal_reports.analysis.summary import failures_of
from tal_reports.analysis.trend import Trend, trend_of
from tal_reports.html.cards import MAX_SUMMARY_LENGTH
from tal_reports.html.page_benchmarks import Benchmarks, benchmarks_of
from tal_reports.html.page_coverage import Coverage, coverage_of
from tal_reports.html.page_disagreements import Disagreements, disagreements_of
from tal_reports.html.page_environment import Environment, environment_of
from tal_reports.html.page_known_issues import KnownIssues, known_issues_of
from tal_reports.html.page_matrix import Matrix, matrix_of
from tal_reports.html.page_mutation import Mutation, mutation_of
from tal_reports.html.page_summary import Summary, summary_of
from tal_reports.html.page_training import training_row
from tal_reports.html.walkthrough import Walkthrough, read_walkthrough
from tal_reports.log.reader import Log
from tal_reports.text import shortened, visible


@dataclass(frozen=True)
class Page:
    """The data of a report, section by section.

    Attributes:
        summary: the first screen.
        disagreements: cards of failures and of declared differences.
        matrix: verdicts by clause group.
        known_issues: the ledger (excused failures) and findings (probable bugs of official code).
        coverage: what the batches exercised: rounding, ties, hazards and scopes.
        training: rows of the training comparison.
        mutation: planted faults, found and not found.
        benchmarks: times and synchronisations.
        walkthrough: every stage on one photograph; None if the run has no walkthrough.json.
        trend: sparklines of the implementations' results over the last runs; None for fewer than two runs.
        environment: versions, machine and command.
        sections: HTML id and name of every section that is not empty.
    """

    summary: Summary
    disagreements: Disagreements
    matrix: Matrix
    known_issues: KnownIssues
    coverage: Coverage
    training: list[dict[str, Any]]
    mutation: Mutation
    benchmarks: Benchmarks
    walkthrough: Walkthrough | None
    trend: Trend | None
    environment: Environment
    sections: Sequence[tuple[str, str]] = ()


def page_of(
    log: Log, summary: dict[str, Any], entries: Sequence[Entry] = (), powers: Sequence[Entry] = ()
) -> Page:
    """Return the data of a run's report.

    Args:
        log: the log of the run.
        summary: the result of `summarise`.
        entries: comparable entries of the history, the run itself last.
        powers: entries of the history with results for planted faults, the oldest first.
    """
    change = compare(entries[-2], entries[-1]) if len(entries) > 1 else None
    new = {cause["id"] for cause in change.new} if change else set()
    found = causes_of(log, failures_of(log))
    judged = [line["name"] for line in summary["implementations"] if line["batches"]]
    walkthrough, fault = read_walkthrough(log.folder)
    problems = [*summary["problems"], *([visible(shortened(fault, MAX_SUMMARY_LENGTH))] if fault else [])]
    page = Page(
        summary=summary_of(log, summary, found, change, problems),
        disagreements=disagreements_of(log, found, new),
        matrix=matrix_of(log, judged, found),
        known_issues=known_issues_of(log),
        coverage=coverage_of(log, summary),
        training=[training_row(line) for line in summary["training"]],
        mutation=mutation_of(log.power, summary["power"], powers),
        benchmarks=benchmarks_of(log, entries),
        walkthrough=walkthrough,
        trend=trend_of(entries),
        environment=environment_of(log),
    )
    return replace(page, sections=_sections(page))


def _sections(page: Page) -> list[tuple[str, str]]:
    content: dict[tuple[str, str], Any] = {
        ("disagreements", "Disagreements"): page.disagreements.cards or page.disagreements.unexplained,
        ("matrix", "Matrix"): page.matrix.rows,
        ("differences", "Differences"): page.disagreements.differences,
        ("ledger", "Known issues"): page.known_issues.ledger.rows,
        ("findings", "Findings"): page.known_issues.findings,
        ("rounding", "Rounding"): page.coverage.margins,
        ("ambiguity", "Ties"): page.coverage.uniqueness.rows,
        ("hazards", "Hazards"): page.coverage.hazards,
        ("training", "Training"): page.training,
        ("scopes", "Scopes"): page.coverage.scopes.rows,
        ("power", "Planted faults"): page.mutation.faults.rows,
        ("synchronisations", "Synchronisations"): page.benchmarks.synchronisations.rows,
        ("benchmarks", "Benchmarks"): page.benchmarks.groups,
        ("walkthrough", "Walkthrough"): page.walkthrough,
        ("trend", "Trend"): page.trend or page.mutation.trend,
        ("environment", "Environment"): page.environment.values,
    }
    return [section for section, present in content.items() if present]
