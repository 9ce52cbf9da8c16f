"""Read test vectors and write outcomes with nothing but numpy."""

import json
from pathlib import Path

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file: 8 bytes length, a JSON header of that length, then the numbers."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    tensors = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            first, last = tensor["data_offsets"]
            numbers = np.frombuffer(data[begin + first : begin + last], TYPES[tensor["dtype"]])
            tensors[name] = numbers.reshape(tensor["shape"])
    return tensors


def write(path: Path, tensors: dict[str, np.ndarray], texts: dict[str, str]) -> None:
    """Write tensors and texts as a safetensors file."""
    names = {np.dtype(code): name for name, code in TYPES.items()}
    header, numbers = {"__metadata__": texts}, b""
    for name, tensor in tensors.items():
        offsets = [len(numbers), len(numbers) + tensor.nbytes]
        numbers += np.ascontiguousarray(tensor).tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
