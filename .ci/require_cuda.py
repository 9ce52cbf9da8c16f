"""Exit with 1 where this machine's torch cannot compute on CUDA: a GPU runner that tests nothing must not be green."""

import sys


def problem() -> str | None:
    """Return the reason why CUDA does not work; None if it works."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no device: see nvidia-smi above"
    try:
        ones = torch.ones(64, 64, device="cuda")
        total = float((ones @ ones).sum())
    except RuntimeError as error:
        return f"the device does not compute: {error}"
    return None if total == 64**3 else f"the device computes {total} where {64**3} is right"


if __name__ == "__main__":
    found = problem()
    if found:
        sys.exit(f"this runner is labelled gpu, and CUDA does not work: {found}")
    import torch

    print(f"CUDA works: {torch.cuda.get_device_name()}, torch {torch.__version__}")
