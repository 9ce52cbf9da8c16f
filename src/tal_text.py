"""Show foreign text: the one way in which the packages of this project print to a terminal or a job's log.

Names, messages and files come from implementations and from strangers. Control characters could move the cursor or hide
a result, invisible characters could reorder it, and a line that begins with `::` is a command to GitHub's runner. Every
line that is printed passes `say`; `print` and writing to standard output are forbidden elsewhere, and a test checks it.
"""

import io
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

COMMAND = re.compile(r"(?m)^(\s*):(?=:)|##(?=\[)")
"""Beginning of a command of a CI runner: `::command` at the start of a line, or `##[command]` anywhere."""
FILLERS = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters that count as letters or marks, but are shown as nothing."""
VARIATIONS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Variation selectors: they change how the character before them looks."""
PLAIN = str.maketrans({"…": "...", "–": "-", "−": "-", "×": "x", "µ": "u", "→": "->", "≤": "<=", "≥": ">="})
"""Replacements of this project's own characters on a stream that cannot encode them."""


def visible(text: str) -> str:
    r"""Return the text with control characters, invisible characters and commands of CI runners written as escapes.

    Tabs and line breaks (`\n`) remain. The result can be encoded in UTF-8.
    """
    if not text.isascii() or not text.replace("\n", "").replace("\t", "").isprintable():
        text = "".join(map(_visible_character, text))
    if "::" in text or "##[" in text:
        text = COMMAND.sub(
            lambda found: f"{found.group(1) or ''}\\x3a" if found.group(1) is not None else "#\\x23", text
        )
    return text


def _visible_character(character: str) -> str:
    hidden = character in FILLERS or VARIATIONS.match(character)
    if not hidden and (character in "\n\t" or character.isprintable() or _is_space(character)):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def _is_space(character: str) -> bool:
    """Return True if the character is a visible space, such as the no-break space."""
    return character.isspace() and character not in "\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def prepare_streams() -> None:
    """Let standard output and standard error accept every text, also that of argparse and of tracebacks.

    A stream without Unicode shows other characters as escapes. A stream that was closed before the start of the program
    becomes the null device: Python has no object for it, and files that are opened later would take its descriptor.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        with suppress(OSError):
            _occupy(number)
        stream = getattr(sys, name)
        if stream is None:
            null = Path(os.devnull).open("r+" if number else "r", encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, null)
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _occupy(number: int) -> None:
    """Open the null device at a descriptor that is closed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number, inheritable=True)
            os.close(opened)


def encodable(text: str, stream: TextIO | None = None) -> str:
    """Return the text in characters that a stream can encode, standard output by default."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = text.translate(PLAIN)
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text


def say(*lines: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print lines, made visible, in characters that the stream can encode; nothing if its reader has ended.

    Args:
        lines: texts, each with any number of lines.
        stream: standard output by default.
        end: printed after the last line.
    """
    stream = stream or sys.stdout
    _write(encodable(visible("\n".join(lines)), stream) + end, stream)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # such as `| head`: later lines, and Python's own flush at the end, go nowhere
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def warn(*lines: str) -> None:
    """Print lines on standard error."""
    say(*lines, stream=sys.stderr)


def say_json(value: object) -> None:
    """Print a value as JSON on standard output, as one line in ASCII that no CI runner takes for a command."""
    line = json.dumps(value, allow_nan=False).replace("##[", "#\\u0023[")  # `##` occurs within strings only
    _write(f"{line}\n", sys.stdout)
