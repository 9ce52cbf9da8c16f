"""Types of devices of torch: known, available and named ones."""

import pytest
import torch

from tal_conformance.core import devices


@pytest.mark.parametrize(
    ("name", "known"), [("cpu", True), ("cuda", True), ("mps", True), ("xpu", True), ("hpu", True), ("meta", False),
                        ("tpu", False), ("cuda:0", False), ("", False)]
)  # fmt: skip
def test_types_of_devices_that_torch_knows(name: str, known: bool):
    assert devices.is_device_type(name) is known


def test_the_cpu_is_always_available():
    assert devices.reason_missing("cpu") is None
    assert devices.available_devices()[0] == "cpu"
    assert not devices.lacks_float64("cpu")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_the_message_names_the_reason_and_what_is_there():
    text = devices.unavailable("mps")
    assert text.startswith(
        "--device mps: device not available: torch.mps.is_available() is False. Available: cpu"
    )
    assert "replay --offline" in text


@pytest.mark.parametrize("name", ["hpu", "vulkan", "meta", "tpu"])
def test_a_device_without_a_backend_has_a_reason(name: str):
    assert devices.reason_missing(name)
