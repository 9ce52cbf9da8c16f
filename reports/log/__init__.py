"""Run logs: write them, read them, and count their batches.

- `writer`: `RunLog`, the log of one run, open for appending.
- `reader`: `read_log`, which reads the log of a finished or killed run into a `Log`.
- `legacy`: conversion of run lines from older schemas.
- `batches`: counts over the `batch` lines.
- `schemas`: validation of log lines, summaries and walkthroughs against their JSON Schemas.
"""
