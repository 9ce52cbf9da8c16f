"""Results of one run, and comparisons of several runs.

- `summary`: the results of a run, as summary.json has them.
- `causes`: failures grouped by cause.
- `history`: one line for each finished run in history.jsonl.
- `compare`: new and fixed causes of one run against another.
- `trend`: numbers over the last runs.
- `merge`: one run from the runs of several shards.
"""
