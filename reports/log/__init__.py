"""Run logs: write them, read them, and count their batches.

- `writer`: `RunLog`, the log of one run, open for appending.
- `reader`: `read_log`, which reads the log of a finished or killed run into a `Log`.
- `legacy`: run lines of older schemas.
- `batches`: counts over the `batch` lines.
- `schemas`: the JSON Schemas of everything that a run leaves.
"""
