"""The oracle of several images together is that of each image alone."""

import pytest
import torch

from tal_conformance.batches.recipe import Recipe, Truth
from tal_conformance.judgement.expectation import Expectation
from tal_reference import NEWEST

BATCH = Recipe(images=((Truth(), Truth(at=(6, 6))), (), (Truth(at=(3, 9)),), (Truth(size=(9, 9)),) * 3))


@pytest.mark.parametrize("hides_inputs", [False, True])
def test_images_together_have_the_oracles_of_each_alone(hides_inputs: bool):
    expected = Expectation(BATCH.build(), NEWEST)
    errors = dict(enumerate(expected.input_errors)) if hides_inputs else None
    together = expected.images((0, 2, 3), expected.inputs, errors)
    assert list(together) == [0, 2, 3]
    for image, oracle in together.items():
        alone = expected.image(image, expected.inputs, errors[image] if errors else None)
        assert oracle.candidate.any()
        for name in ("candidate", "may_candidate", "owners"):
            assert getattr(oracle, name).equal(getattr(alone, name)), name
        for name in ("overlap", "metric"):
            values, error = getattr(alone, name), f"{name}_error"
            # torch computes the powers of a full vector and of its rest by different code
            rounding = 4 * torch.finfo(values.dtype).eps * float(values.max())
            torch.testing.assert_close(getattr(oracle, name), values, rtol=0.0, atol=rounding)
            torch.testing.assert_close(getattr(oracle, error), getattr(alone, error), rtol=0.0, atol=rounding)
        assert oracle.same_dtype["positives"].equal(alone.same_dtype["positives"])
        assert oracle.uniqueness is alone.uniqueness


def test_no_image_has_no_oracle():
    expected = Expectation(BATCH.build(), NEWEST)
    assert expected.images((), expected.inputs) == {}
