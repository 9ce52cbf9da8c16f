"""Run logs: writing them, reading them, and what people and tools want to know of them. Needs no torch.

    log = RunLog.create("reports/runs")       # while a run goes on
    log.append("run", profile="dev", ...)
    log.append("batch", ...)
    log.finish(0)
    report = render(log.folder)               # report.html and summary.json
    log.set_latest()
    print(terminal_table(read_log(log.folder)))

What lines and summaries hold is said by the JSON Schemas in `reports/schema/`.
"""

from reports.anchors import anchor_lines, truth_lines
from reports.differences import Section
from reports.log import Log, LogError, read_log
from reports.pictures import Sides
from reports.render import render, write_differences, write_picture
from reports.runlog import RunLog, write_whole
from reports.summary import summarise
from reports.terminal import terminal_table
from reports.text import visible

__all__ = [
    "Log",
    "LogError",
    "RunLog",
    "Section",
    "Sides",
    "anchor_lines",
    "read_log",
    "render",
    "summarise",
    "terminal_table",
    "truth_lines",
    "visible",
    "write_differences",
    "write_picture",
    "write_whole",
]
