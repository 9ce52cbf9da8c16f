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

from reports.log import Log, LogError, read_log
from reports.render import render
from reports.runlog import RunLog
from reports.summary import summarise
from reports.terminal import terminal_table

__all__ = ["Log", "LogError", "RunLog", "read_log", "render", "summarise", "terminal_table"]
