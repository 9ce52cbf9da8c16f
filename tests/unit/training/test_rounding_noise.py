import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.training.rounding_noise import ROUNDS, RoundingNoise
from tal_reference import detection_loss

EXACT = {
    *("floor_divide", "remainder"),  # their operands are integers
    *(
        "_local_scalar_dense",
        "_to_copy",
        "_unsafe_view",
        "alias",
        "all",
        "amax",
        "amin",
        "any",
        "arange",
        "argmax",
    ),
    *(
        "bitwise_and",
        "bitwise_not",
        "bitwise_or",
        "cat",
        "clamp",
        "clone",
        "copy",
        "detach",
        "empty_like",
        "eq",
    ),
    *(
        "expand",
        "fill",
        "flip",
        "floor",
        "full",
        "full_like",
        "gather",
        "ge",
        "gt",
        "index",
        "index_fill",
        "le",
        "lift_fresh",
    ),
    *(
        "lt",
        "masked_fill",
        "max",
        "maximum",
        "minimum",
        "ne",
        "neg",
        "new_full",
        "new_zeros",
        "nonzero",
        "ones",
        "ones_like",
    ),
    *(
        "permute",
        "promote_types",
        "repeat",
        "scalar_tensor",
        "scatter",
        "scatter_reduce",
        "select",
        "select_backward",
        "slice",
    ),
    *(
        "slice_backward",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "topk",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
    ),
    *("where", "zero", "zeros", "zeros_like"),
}
"""Names of torch operations in the loss whose results are exact, without rounding."""


def test_every_operation_of_the_loss_is_known_to_round_or_not():
    batch = Recipe(images=((Truth("ordinary"), Truth("nested")), ()), cells=(8, 8)).build()
    maps = [level.requires_grad_() for level in batch.feature_maps]
    with RoundingNoise(0, 1.0) as noise:
        torch.autograd.grad(detection_loss(maps, batch.annotations, batch.head).total, maps)
    assert noise.operations - ROUNDS - EXACT == set()
    assert {
        "mul",
        "pow",
        "atan",
        "_softmax_backward_data",
        "softplus",
        "softplus_backward",
    } <= noise.operations
    assert not ROUNDS & EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("amplitude", [1.0, 8.0])
def test_a_result_is_moved_by_the_amplitude(dtype: torch.dtype, amplitude: float):
    one, two = torch.rand(2, 1000, dtype=dtype) + 1
    exact, eps = one.double() + two.double(), torch.finfo(dtype).eps
    with RoundingNoise(0, amplitude):
        moved = one + two
    share = (moved.double() - exact) / exact / eps
    assert share.abs().max() <= amplitude + 1.5  # 1.5 for the rounding of sum and product
    assert share.abs().min() >= amplitude - 1.5
    assert 400 < int((share > 0).sum()) < 600


def test_moving_choosing_and_comparing_is_exact():
    values = torch.randn(50)
    with RoundingNoise(0, 1000.0):
        same = torch.cat((values[:20], values[20:])).view(5, 10).flatten().clamp(min=-100)
        larger = values > values.flip(0)
    assert torch.equal(same, values)
    assert torch.equal(larger, values > values.flip(0))


def test_whole_numbers_stay():
    with RoundingNoise(0, 1000.0):
        assert torch.equal(torch.arange(5) * 2 + 1, torch.tensor([1, 3, 5, 7, 9]))


def test_operations_in_place_are_moved_once():
    values = torch.ones(100)
    with RoundingNoise(0, 4.0):
        values += 1
    assert ((values - 2).abs() == 2 * 4 * torch.finfo(torch.float32).eps).all()


def test_gradients_are_moved_too():
    values = torch.rand(100, requires_grad=True)
    (exact,) = torch.autograd.grad((values**3).sum(), values)
    with RoundingNoise(0, 64.0):
        (moved,) = torch.autograd.grad((values**3).sum(), values)
    assert not torch.isclose(moved, exact, rtol=1e-6, atol=0).any()
    assert torch.allclose(moved, exact, rtol=1e-4)


def test_the_seed_decides():
    def run(seed: int) -> torch.Tensor:
        with RoundingNoise(seed, 1.0):
            return torch.ones(100) * 1.5

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_afterwards_numbers_are_exact_again():
    with RoundingNoise(0, 1000.0):
        pass
    assert torch.equal(torch.ones(100) + 1, torch.full((100,), 2.0))
