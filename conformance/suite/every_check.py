"""Import every test module that declares checks, so that `tal_conformance.checks.registry.CHECKS` is complete.

pytest does not need this module: it imports test modules itself, after it has loaded the profile.
"""

from tal_conformance.suite import (  # noqa: F401
    test_annotations,
    test_assigner,
    test_calling,
    test_candidates,
    test_conflict,
    test_decoding,
    test_devices,
    test_heads,
    test_large,
    test_loss,
    test_metric,
    test_nonfinite,
    test_precision,
    test_relations,
    test_row_order,
    test_sizes,
    test_state,
    test_targets,
    test_topk,
)
