"""The conformance suite: batches to feed, implementations to test, the judgement, and the tests themselves."""
