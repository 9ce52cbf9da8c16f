"""`python -m tests.fuzz [READER...] --inputs N`: feeds the readers with damaged and hostile inputs.

Each input must be read, or refused with the reader's own clear error: nothing else may be raised, nothing of it may be
run, and memory may not grow. What breaks that is kept as a file, told once for each place in the code, and makes the
exit status 1.
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

from tests.fuzz.readers import READERS, Reader, inputs

ROOM = 2**30
"""Bytes that a reader may take, more than this process has at the beginning."""
RUNS_CODE = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")
"""Audit events that no reader may cause."""


class CodeRan(Exception):
    """Something was run while an input was read."""


class Watch:
    """Tells whether anything was run. An audit hook: what a reader catches is still known."""

    def __init__(self) -> None:
        self.seen = ""
        sys.addaudithook(self)

    def __call__(self, event: str, _: tuple[Any, ...]) -> None:
        if event in RUNS_CODE:
            self.seen = event


def problem(reader: Reader, content: bytes, watch: Watch) -> tuple[str, str] | None:
    """Where and how a reader fails on an input; None if it does not."""
    watch.seen = ""
    try:
        reader.read(content)
    except reader.refuses as error:
        if len(str(error)) > 3000:
            return f"a message of {len(str(error))} characters", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = traceback.format_exception(error)
        return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}", "".join(text[-1:])[
            :300
        ]
    return (f"it ran code: {watch.seen}", "") if watch.seen else None


def fuzz(name: str, count: int, seed: int, kept: Path, watch: Watch) -> Counter[str]:
    """Feed one reader; what was found, by place."""
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
        f"{name}: {count:,} inputs, {sum(found.values()):,} of them found something, "
        f"{len(found)} places, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return found


def main() -> int:
    """Feed the readers that are named, or all.

    Returns:
        1 if anything was found.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kept", type=Path, default=Path("fuzz-findings"), help="where to keep what is found"
    )
    options = parser.parse_args()
    unknown = [name for name in options.readers if name not in READERS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no reader: {', '.join(READERS)}")
    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (taken + ROOM, taken + ROOM))
    watch = Watch()
    found = [
        fuzz(name, options.inputs, options.seed, options.kept, watch) for name in options.readers or READERS
    ]
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
