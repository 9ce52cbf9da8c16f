"""An adapter is not called with a batch in mixed precision that it does not declare, such as a recorded one."""

from typing import Any

import pytest

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.checks.everything import run_every_check
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Subject


class Float32Alone(ReferenceAdapter):
    """The reference, which raises on feature maps of 16 bits."""

    precisions = ()

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        if feature_maps[0].element_size() < 4:
            raise TypeError("bfloat16 is not supported by this framework")
        return super().loss(feature_maps, *arguments)


def recorded_in_16_bits() -> Batch:
    batches = [Batch.load(path) for path in recorded_cases("detect")]
    return next(batch for batch in batches if batch.autocast)


def test_it_is_not_supported():
    batch = recorded_in_16_bits()
    implementation = implementation_from(Float32Alone, "float32 alone")
    with pytest.raises(NotSupported, match="precision autocast-bfloat16"):
        execute(implementation, batch)
    judgement = run_every_check(Subject(implementation, "cpu"), batch)
    assert judgement.verdict is Verdict.NOT_SUPPORTED
    assert "attribute `precisions`" in str(judgement.unsupported)


def test_a_declared_precision_is_called():
    assert execute(implementation_from(ReferenceAdapter, "reference"), recorded_in_16_bits()).loss is not None
