"""Results of one run, and comparisons of several runs.

- `summary`: the results of a run, as written to summary.json.
- `causes`: failures grouped by cause: equal implementation, verdict, stage and clause.
- `history`: one line for each finished run in history.jsonl.
- `compare`: causes of failure that are new or fixed in one run compared with another.
- `trend`: sparklines of numbers such as failure rates over the last runs.
- `merge`: one run from the runs of several shards, each of which ran a part of the tests.
"""
