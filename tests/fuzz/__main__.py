"""`python -m tests.fuzz [READER...] --inputs N`: test the readers of files with damaged and hostile inputs.

A reader must return, or raise one of its documented errors. It must not execute anything from the input, and its
memory must not grow. The first input that violates this at a line of code is stored and reported; the exit
status is then 1.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.readers import Reader, inputs
from tests.fuzz.registry import READERS

ROOM = 2**30
"""Bytes of memory that readers may allocate."""
RUNS_CODE = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")
"""Audit events that no reader may cause."""


class CodeRan(Exception):
    """Error: code was executed while an input was read."""


class Watch:
    """Audit hook that records each execution of code, even if the reader catches the error."""

    def __init__(self) -> None:
        self.seen = ""
        sys.addaudithook(self)

    def __call__(self, event: str, _: tuple[Any, ...]) -> None:
        if event in RUNS_CODE:
            self.seen = event


def problem(reader: Reader, content: bytes, watch: Watch) -> tuple[str, str] | None:
    """Return the line of code and the message of a reader's failure on an input; None if the reader does not fail."""
    watch.seen = ""
    try:
        reader.read(content)
    except reader.refuses as error:
        if len(str(error)) > 3000:
            return f"the error message has {len(str(error))} characters, more than 3000", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = traceback.format_exception(error)
        return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}", "".join(text[-1:])[
            :300
        ]
    return (f"the reader executed code: {watch.seen}", "") if watch.seen else None


def fuzz(name: str, count: int, seed: int, kept: Path, watch: Watch) -> Counter[str]:
    """Test one reader with `count` inputs; return the number of failures at each line of code."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="tal-conformance-fuzz-") as folder:
        reader = READERS[name](Path(folder))
        for sample in reader.samples:
            reader.read(sample)
        chance = random.Random(f"{name} {seed}")
        began = time.monotonic()
        for content, _ in zip(inputs(reader, chance), range(count), strict=False):
            wrong = problem(reader, content, watch)
            if wrong is None:
                continue
            where, message = wrong
            found[where] += 1
            if found[where] == 1:
                kept.mkdir(parents=True, exist_ok=True)
                path = kept / f"{name}-{seed}-{len(found)}"
                path.write_bytes(content)
                print(f"{name}: {where}: {message.strip()} ({path})", flush=True)
    print(
        f"{name}: {count:,} inputs, {sum(found.values()):,} failures at "
        f"{len(found)} lines of code, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return found


def main() -> int:
    """Test the named readers, or all of them.

    Returns:
        1 if a reader failed, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kept", type=Path, default=Path("fuzz-findings"), help="folder for inputs that made a reader fail"
    )
    options = parser.parse_args()
    unknown = [name for name in options.readers if name not in READERS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not a reader; choose from {', '.join(READERS)}")
    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (taken + ROOM, taken + ROOM))
    watch = Watch()
    found = [
        fuzz(name, options.inputs, options.seed, options.kept, watch) for name in options.readers or READERS
    ]
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
