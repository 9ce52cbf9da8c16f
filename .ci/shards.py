"""The nightly's shards, as `shards=JSON` for GITHUB_OUTPUT: implementations, devices and releases of torch."""

import json
import os

TORCHES = {
    "2.14.1": "0.29.1",  # what the Makefile pins
    "2.6.0": "0.21.0",  # the oldest that pyproject.toml allows
}
"""Releases of torch, each with its torchvision."""
IMPLEMENTATIONS = ("ultralytics", "article")
RUNNERS = {"cpu": ["ubuntu-latest"], "cuda": ["self-hosted", "linux", "gpu"]}
"""Labels of the machines that test on a device."""


def shards(gpu: bool) -> list[dict[str, object]]:
    """One for each implementation, device and torch.

    Args:
        gpu: there are runners with a GPU.
    """
    return [
        {
            "name": f"{implementation}-{device}-torch-{torch}",
            "runner": runner,
            "device": device,
            "implementations": implementation,
            "torch": f"torch=={torch}",
            "torchvision": f"torchvision=={torchvision}",
        }
        for device, runner in RUNNERS.items()
        if gpu or device != "cuda"
        for torch, torchvision in TORCHES.items()
        for implementation in IMPLEMENTATIONS
    ]


if __name__ == "__main__":
    print(f"shards={json.dumps(shards(os.environ.get('GPU_RUNNERS') != 'false'))}")
