"""Fuzzed readers of test vectors: their list, the description of a program, and its outcomes."""

import json
import random
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from tests.common.vector_outcomes import outcome_of
from tests.fuzz.mutations import changed_json
from tests.fuzz.readers import RECIPE, Reader, dumped

from tal_conformance.core.vectors import MANIFEST, InvalidVectors, list_digest, read_set
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.outcomes_folder import read_outcomes, read_program
from tal_conformance.mutation.vectors import VectorBatch, write_vectors
from tal_reference import NEWEST, Hyperparameters

BATCH = replace(RECIPE, hyperparameters=Hyperparameters(topk=3))
EVERYTHING = ("assignment", "loss", "gradients")


def exported(folder: Path) -> Path:
    """Write a small folder of vectors, and return it."""
    vectors = folder / "vectors"
    vectors.mkdir()
    facts = {"task": "detect", "profile": "dev", "left_out": ["something"]}
    write_vectors(
        vectors, [VectorBatch(BATCH.build(), "loss", ("loss",))], NEWEST, facts, "tal-conformance 0"
    )
    return vectors


def list_reader(folder: Path) -> Reader:
    """Return the reader of `vectors.json`."""
    vectors = exported(folder)
    path = vectors / MANIFEST

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return read_set(vectors)

    def changed(sample: bytes, chance: random.Random) -> bytes:
        fields = json.loads(sample)
        del fields["sha256"]
        fields = changed_json(fields, chance)
        if isinstance(fields, dict) and chance.random() < 0.9:
            fields["sha256"] = list_digest(fields)
        return dumped(fields)

    return Reader([path.read_bytes()], read, (InvalidVectors,), changed)


def program_reader(folder: Path) -> Reader:
    """Return the reader of `implementation.json`."""
    path = folder / "implementation.json"
    about = {"schema": 1, "name": "mine", "version": "1", "gives": list(EVERYTHING), "device": "cpu"}

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return read_program(folder)

    def changed(sample: bytes, chance: random.Random) -> bytes:
        return dumped(changed_json(json.loads(sample), chance))

    return Reader([dumped(about)], read, (InvalidVectors,), changed)


def vector_outcome_reader(folder: Path) -> Reader:
    """Return the reader of the outcome of a vector."""
    vectors = exported(folder)
    (vector,) = read_set(vectors).vectors
    own = vectors / "outcomes" / "mine"
    own.mkdir(parents=True)
    (own / "implementation.json").write_bytes(
        dumped({"schema": 1, "name": "mine", "version": "1", "gives": list(EVERYTHING)})
    )
    tensors = outcome_of(vectors, vector, ReferenceAdapter(), EVERYTHING)
    texts = {"vector": vector.batch.sha256}
    samples = [save(tensors, texts), save({}, texts | {"raised": "out of luck"})]

    def read(content: bytes) -> object:
        (own / f"{vector.id}.safetensors").write_bytes(content)
        return read_outcomes(read_program(own), [vector])

    def changed(sample: bytes, chance: random.Random) -> bytes:
        length = int.from_bytes(sample[:8], "little")
        header = dumped(changed_json(json.loads(sample[8 : 8 + length]), chance))
        return len(header).to_bytes(8, "little") + header + sample[8 + length :]

    return Reader(samples, read, (InvalidVectors,), changed)


READERS = {"vectors": list_reader, "program": program_reader, "vector outcome": vector_outcome_reader}
"""Functions that return a reader, given a folder for files, by name."""
