"""Run logs and their reports: write a log while a run goes on, read it, summarise it and render it, without torch.

    log = RunLog.create("reports/runs")
    log.append("run", profile="dev", ...)
    log.append("batch", ...)
    log.finish(0)
    report = render(log.folder)               # report.html and summary.json
    log.set_latest()
    print(terminal_table(read_log(log.folder)))

The JSON Schemas in `reports/schema/` describe the lines of a log and the summary.
"""

from tal_reports.analysis.causes import CLEAR, share_of_bound
from tal_reports.analysis.headline import headline
from tal_reports.analysis.merge import merged_order
from tal_reports.analysis.summary import summarise
from tal_reports.html.differences import Section
from tal_reports.html.drawing import Sides
from tal_reports.html.explanations import anchor_lines, truth_lines
from tal_reports.html.render import render, write_differences, write_picture
from tal_reports.html.result import result_page
from tal_reports.log.batches import Batches
from tal_reports.log.reader import Log, LogError, batch_lines, read_log
from tal_reports.log.writer import LATEST, RunLog, json_types, write_whole
from tal_reports.terminal import terminal_table
from tal_reports.text import counted, listed, visible

if __name__ != "tal_reports":  # imported by the old name, that of the folder
    from tal_folder_names import hand_over

    hand_over(__name__)

__all__ = [
    "CLEAR",
    "LATEST",
    "Batches",
    "Log",
    "LogError",
    "RunLog",
    "Section",
    "Sides",
    "anchor_lines",
    "batch_lines",
    "counted",
    "headline",
    "json_types",
    "listed",
    "merged_order",
    "read_log",
    "render",
    "result_page",
    "share_of_bound",
    "summarise",
    "terminal_table",
    "truth_lines",
    "visible",
    "write_differences",
    "write_picture",
    "write_whole",
]
