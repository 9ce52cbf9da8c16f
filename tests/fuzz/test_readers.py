"""Every reader accepts or rejects changed inputs as documented, and never loads a pickle.

`python -m tests.fuzz` runs more.
"""

import io
import random
import zipfile
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.__main__ import Watch, problem
from tests.fuzz.mutations import nested
from tests.fuzz.readers import Reader, changed_bytes, inputs
from tests.fuzz.registry import READERS

WATCH = Watch()
PICKLE = b"cos\nsystem\n(S'touch ran-the-pickle'\ntR."


@pytest.fixture(scope="module", params=READERS)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return READERS[request.param](tmp_path_factory.mktemp(request.param))


def test_samples_are_valid(reader: Reader):
    for sample in reader.samples:
        reader.read(sample)


def test_changed_inputs(reader: Reader):
    for content in islice(inputs(reader, random.Random(0)), 60):
        assert problem(reader, content, WATCH) is None, content[:2000]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=200), seed=st.integers(0, 2**32))
def test_any_bytes(reader: Reader, content: bytes, seed: int):
    chance = random.Random(seed)
    sample = chance.choice(reader.samples)
    at = chance.randrange(len(sample))
    for each in (
        content,
        sample[:at] + content,
        sample[:at] + content + sample[at:],
        changed_bytes(content, chance),
    ):
        assert problem(reader, each, WATCH) is None


def zipped(content: bytes) -> bytes:
    """Return a zip file that contains a pickle, as written by torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [PICKLE, zipped(PICKLE), b"\x80\x04" + PICKLE], ids=["text", "torch", "binary"]
)
def test_a_pickle_is_not_run(reader: Reader, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert problem(reader, content, WATCH) is None
    assert list(tmp_path.iterdir()) == []


def test_depth(reader: Reader):
    """Every reader rejects JSON that is nested deeper than Python's recursion limit, without a RecursionError."""
    text = b"[" * 100_000
    for content in (
        text,
        b'{"a":' * 50_000,
        *(sample.replace(b"{", b"{" + text, 1) for sample in reader.samples),
    ):
        assert problem(reader, content, WATCH) is None
    assert nested(3) == [[[[]]]]


def test_what_the_fuzzer_must_notice(tmp_path: Path):
    """`problem` reports a reader that raises an undocumented error, and a reader that loads a pickle."""

    def runs(content: bytes) -> object:
        return __import__("pickle").loads(content)

    careless = Reader([b"1"], int, (), lambda sample, _: sample)
    runner = Reader([b"1"], runs, (Exception,), lambda sample, _: sample)
    found = problem(careless, b"x", WATCH)
    assert found
    assert found[0].startswith("ValueError at")
    ran = problem(runner, b"cbuiltins\nlen\n.", WATCH)
    assert ran == ("the reader executed code: pickle.find_class", "")
