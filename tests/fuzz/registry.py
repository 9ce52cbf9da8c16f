"""The table of all fuzzed readers and text outputs, by name."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import readers, settings, texts, vectors
from tests.fuzz.readers import Reader

READERS: dict[str, Callable[[Path], Reader]] = {
    **readers.READERS,
    "recorded": settings.recorded_reader,
    "ledger": settings.ledger_reader,
    "options": settings.option_reader,
    "build": settings.build_reader,
    "schema": settings.schema_reader,
    "walkthrough": settings.walkthrough_reader,
    "shard": settings.shard_reader,
    **vectors.READERS,
    **texts.PATHS,
}
"""Functions that return a reader, given a folder for files, by name."""
