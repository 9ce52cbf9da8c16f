"""Results of one run, and comparisons of several runs.

- `summary`: the results of a run, as summary.json has them.
- `causes`: failures grouped by cause: equal implementation, verdict, stage and clause.
- `history`: one line for each finished run in history.jsonl.
- `compare`: new and fixed causes of one run against another.
- `trend`: sparklines of numbers such as failure rates over the last runs.
- `merge`: one run from the runs of several shards, which each ran some tests.
"""
