"""Random changes of valid inputs: of their bytes, and of their JSON content."""

import copy
import random
from typing import Any

DEEP = 3_000
"""Number of nested lists, more than every reader accepts."""
BYTES = (
    b"\x00", b"\xff\xff\xff\xff", b"\x80\x04\x95", b"\xf0\x9f", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null",
    b"{}", b"[]",
    b"[" * 100_000, b'{"a":' * 5000, b'"../../../etc/passwd"', b'"schema":2,', b"\n",
    b"\r\n", b'"', b"\\", b"\\ud800", b",", b"-0",
    b"csystem\n(S'true'\ntR.",
)  # fmt: skip
"""Byte strings that `changed_bytes` inserts at a random position."""


def nested(levels: int) -> list[Any]:
    """Return an empty list that is nested in `levels` lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 0.5, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", "\x00", "x" * 3000, "../../../etc/passwd", "/etc/passwd",
    "\ud800", "\u202e",
    "nan", "inf", "1e999", "<script>", "{{ 7*7 }}", "exact", "error", "end", "batch", "gradients", [], {}, [None], [[]],
    {"": None},
    [1, 2, 3], [-1, 2**40], {"__class__": "os.system"}, nested(60), ["x"] * 500,
)  # fmt: skip
"""Values that replace a random JSON value in `changed_json`."""


def changed_bytes(sample: bytes, chance: random.Random) -> bytes:
    """Return the bytes `sample` with one to four random changes."""
    content = bytearray(sample)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(6):
            case 0:
                del content[at:]
            case 1 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 2 if at < len(content):
                content[at] = chance.randrange(256)
            case 3:
                del content[at : at + chance.choice((1, 2, 8, 100))]
            case 4:
                content[at:at] = chance.choice(BYTES)
            case _:
                content[at:at] = content[max(0, at - chance.choice((1, 8, 100))) : at]
    return bytes(content)


def changed_json(value: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON value in which one to three nodes are replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = _changed(value, chance)
    return value


def _changed(value: Any, chance: random.Random) -> Any:
    holders = [node for node in _nodes(value) if node]
    if not holders or chance.random() < 0.02:
        return copy.deepcopy(chance.choice(VALUES))
    holder = chance.choice(holders)
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(("", "name", "kind", "schema", "../x", "x" * 200))] = holder[key]
        case 1:
            holder.append(copy.deepcopy(holder[key]))
        case 2 if _is_number(holder[key]):
            holder[key] = holder[key] * chance.choice((-1, 0, 2, 1000, 10**9))
        case _:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nodes(value: Any) -> list[Any]:
    """Return every object and list in a JSON value."""
    found, left = [], [value]
    while left:
        node = left.pop()
        if isinstance(node, (dict, list)):
            found.append(node)
            left += node.values() if isinstance(node, dict) else node
    return found
