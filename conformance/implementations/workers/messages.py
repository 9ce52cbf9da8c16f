"""Messages between the suite and a worker process.

A message is four letters, two lengths, a JSON text and a safetensors block. Reading it executes nothing, and bytes that
do not belong to a message are detected.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

LETTERS = b"TALF"
"""First bytes of every message."""
PREFIX = struct.Struct("<4sIQ")
"""Letters, length of the text, length of the tensors; in bytes."""
LONGEST_TEXT, LONGEST_TENSORS = 2**26, 2**34
"""Maximum lengths of text and tensors that are read, in bytes, if nothing else is known."""
LONGEST_ANSWER_TEXT = 2**20
"""Maximum length of the text of an answer to one question, in bytes: JSON, with a message and a traceback."""
LIMIT_VARIABLE = "TAL_CONFORMANCE_WORKER_BYTES"
"""Environment variable with the memory limit of a worker, in bytes."""
OUT_OF_MEMORY = 71
"""Exit status of a worker that reached its memory limit."""


class MessageError(ValueError):
    """Error: bytes are not a message. The text states the problem."""


class TooLong(MessageError):
    """Error: the header of a message announces more bytes than allowed; the content is not read."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        fields: the JSON object of the message.
        tensors: tensors by name, on the CPU.
    """

    fields: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def encoded(fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> bytes:
    """Return a message as bytes. Tensors are copied to the CPU, without their gradients."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
    text, block = json.dumps(fields).encode(), save(_unshared(plain)) if plain else b""
    return PREFIX.pack(LETTERS, len(text), len(block)) + text + block


def decoded(
    read: Callable[[int], bytes], longest_text: int = LONGEST_TEXT, longest_tensors: int = LONGEST_TENSORS
) -> Message:
    """Read the next message.

    Args:
        read: returns the given number of bytes, or raises.
        longest_text: maximum size of the text in bytes; a longer text is not read.
        longest_tensors: maximum size of the tensors in bytes; larger tensors are not read.

    Raises:
        MessageError: the bytes are not a message.
    """
    letters, text_length, block_length = PREFIX.unpack(read(PREFIX.size))
    if letters != LETTERS:
        raise MessageError(f"expected a message that begins with {LETTERS!r}, got {letters!r}")
    if text_length > longest_text or block_length > longest_tensors:
        raise TooLong(
            f"a message of {text_length:,} bytes of text and {block_length:,} bytes of tensors, expected at most "
            f"{longest_text:,} and {longest_tensors:,}"
        )
    text, block = read(text_length), read(block_length)
    try:
        fields = json.loads(text)
        tensors = load(block) if block else {}
    except (ValueError, SafetensorError, RecursionError) as error:
        raise MessageError(f"cannot read the content of a message: {error!s:.400}") from error
    if not isinstance(fields, dict):
        raise MessageError(f"expected a JSON object in the message, got {type(fields).__name__}")
    return Message(fields, tensors)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, copied where several of them share memory, which safetensors rejects."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen and tensor.numel() else tensor
        seen.add(place)
    return apart
