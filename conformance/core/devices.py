"""List the devices on which torch computes on this machine, and tell which of them lack float64."""

from functools import cache

import torch

USUAL = ("cpu", "cuda")
"""Devices that are listed in every run, tested or not."""
WITHOUT_VALUES = ("meta",)
"""Device types of torch whose tensors have no values."""


def is_device_type(name: str) -> bool:
    """Return True if torch knows a type of device by this name (`cuda`, `mps`, `xpu`, ...), present or not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    return device.type == name and name not in WITHOUT_VALUES


@cache
def reason_missing(name: str) -> str | None:
    """Return the reason why nothing can be computed on a type of device here, or None if it can."""
    if not is_device_type(name):
        return f"torch {torch.__version__} knows no device type {name!r}, expected cpu, cuda, mps, xpu or another one"
    module = getattr(torch, name, None)
    present = getattr(module, "is_available", None)
    if present is not None and not present():
        return f"torch.{name}.is_available() is False"
    try:
        (torch.ones(2, device=name) + 1).tolist()
    except Exception as error:  # whatever a backend raises: it is quoted
        return str(error).split(". ")[0].splitlines()[0]
    return None


def unavailable(name: str) -> str:
    """Return the message for a device that was named and is not available."""
    here = ", ".join(available_devices())
    return (
        f"--device {name}: device not available: {reason_missing(name)}. Available: {here}. Outcomes of another "
        "machine are judged here by `replay --offline`, or as test vectors by `tal-conformance judge`"
    )


def available_devices() -> list[str]:
    """Return the types of all devices of this machine on which torch computes, the CPU first."""
    accelerator = torch.accelerator.current_accelerator()
    names = dict.fromkeys((*USUAL, *([accelerator.type] if accelerator is not None else [])))
    return [name for name in names if reason_missing(name) is None]


@cache
def lacks_float64(name: str) -> bool:
    """Return True if a device has no float64, as MPS: outcomes computed there are judged on the CPU."""
    if name in USUAL:
        return False
    try:
        (torch.ones(2, device=name, dtype=torch.float64) + 1).tolist()
    except (TypeError, RuntimeError):
        return True
    return False
