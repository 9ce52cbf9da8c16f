"""Names of the ways and sequences of calls that the suite tests, such as "retained-graph" and "multi-scale".

An adapter lists in `unsupported_ways` those names whose ways of calling its code is not meant for.
"""

WAY_NAMES = (
    "scaled-gradients",
    "backward",
    "two-forwards",
    "retained-graph",
    "frozen-maps",
    "non-leaf-maps",
    "grad-attribute",
    "channels-last",
    "strided-views",
    "storage-offset",
    "no-grad",
    "inference-mode",
    "threads",
    "deterministic-algorithms",
    "compile",
    "out-of-memory",
    "two-processes",
)
"""Ways of calling, in the order in which they are tested."""
SEQUENCE_NAMES = (
    "multi-scale",
    "smaller-last-batch",
    "equal-shapes",
    "changed-gains",
    "train-validate-train",
    "two-heads",
    "float32-after-bfloat16",
    "epochs",
)
"""Sequences of calls, in the order in which they are tested."""
UNSUPPORTED = "not supported: "
"""Beginning of the reason that the run log has for a way or sequence that an adapter does not support."""
