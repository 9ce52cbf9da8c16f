"""The shipped set of test vectors: few small batches that find nearly all planted faults, chosen by the kill matrix.

    python -m tal_conformance.mutation.vector_set MATRIX.json

computes which candidate batches find which planted faults (a line for every fault, so that an interrupted run of the
same code continues), chooses the set and writes `vectors.json` beside this module. The file has the recipes of the
batches, not their numbers: the batches are built when they are exported, and an id that differs from the listed id is
an error.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from tal_conformance.batches.hazards.catalogue import with_hazards
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recipe_source import recipe_from
from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.batches.strategies.long_batches import CROSSINGS
from tal_conformance.checks.power import code_lines, source_digest
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.progress import progress
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.attack import attack, faulty
from tal_conformance.mutation.planted_faults import FAULTS, Fault
from tal_conformance.mutation.vectors import ASSIGNMENT, LOSS, VectorBatch, batches_of_checks
from tal_conformance.suite.coverage import OPTIONAL, RARE
from tal_reference import NEWEST
from tal_text import say

FILE = Path(__file__).with_name("vectors.json")
NUMBER = 1
"""Version of the set. It rises whenever a vector is added, removed or changed."""
MOST_VECTORS, MOST_BYTES = 300, 2_900_000
"""Limits of the set: number of vectors, and bytes of their files."""
REQUIRED_SHARE = 0.95
"""Share of the planted faults that the set must find."""
EXAMPLES = 16
"""Number of batches of each check among the candidates; a fault that none finds is attacked with those of `ci`."""
LARGEST = 200_000
"""Maximum size in bytes of a candidate."""
HEADERS = 2500
"""Number of bytes of the headers of a vector's files, and of its entry in the list."""
ENOUGH = 24
"""Number of finding candidates after which no further, larger ones are tried for a fault."""
TWICE = 2
"""Number of vectors that find each fault, and that have each hazard, if there are so many candidates."""
LONG = "crossings"
"""Check of faults that only show in batches with one large dimension."""
PRECISION = "precision["
"""Beginning of the check of faults that only show in automatic mixed precision."""


@dataclass(frozen=True)
class Candidate:
    """A batch that may become a vector of the set.

    Attributes:
        recipe: recipe of the batch.
        asks: "loss" or "assignment", as in `Vector`.
        checks: names of the tests that draw it.
        mixed: True for automatic mixed precision in float16.
    """

    recipe: Recipe
    asks: str
    checks: tuple[str, ...]
    mixed: bool = False

    def batch(self) -> Batch:
        """Return the batch."""
        built = self.recipe.build()
        if not self.mixed:
            return built
        return with_hazards(replace(built.to(dtype=torch.float16), autocast=True))


def candidates(number: int = EXAMPLES) -> list[Candidate]:
    """Return small batches of all checks, batches with one large dimension, and some in mixed precision; by size."""
    drawn = [drawn for drawn in batches_of_checks(number, NEWEST) if drawn.batch.origin.startswith("Recipe(")]
    found = [Candidate(recipe_from(each.batch.origin), each.asks, each.checks) for each in drawn]
    mixed = [
        Candidate(recipe_from(each.batch.origin), LOSS, ("precision",), mixed=True)
        for each in drawn
        if each.asks == LOSS and each.checks[0] in ("loss", "metric", "conflict", "targets")
    ]
    long = [Candidate(recipe, LOSS, (LONG,)) for recipe in (*map(thin, CROSSINGS), *CROSSINGS)]
    return sorted((each for each in (*found, *mixed, *long) if size_of(each) <= LARGEST), key=size_of)


def thin(recipe: Recipe) -> Recipe:
    """Return the recipe with few bins, and so with small files, unless it needs its bins."""
    return recipe if recipe.reg_max > 16 else replace(recipe, reg_max=min(recipe.reg_max, 2))


def size_of(candidate: Candidate) -> int:
    """Return the size in bytes of a candidate's files: feature maps, annotations and inputs of the assigner."""
    recipe = candidate.recipe
    images, anchors = len(recipe.images), sum(rows * columns for rows, columns in recipe.grids)
    truths, most = sum(map(len, recipe.images)), max(map(len, recipe.images))
    number = 2 if candidate.mixed else 4
    maps = number * images * anchors * (4 * recipe.reg_max + recipe.classes)
    inputs = 4 * (images * anchors * (recipe.classes + 4) + 3 * anchors + 6 * images * most + 6 * truths)
    return maps + inputs + HEADERS


def finds(fault: Fault, candidate: Candidate) -> bool:
    """Return True if a vector made of the candidate finds the fault in a program that gives all parts."""
    implementation = faulty(fault, exposes_stages=False)
    try:
        judge_against_reference(
            Subject(implementation, "cpu"), candidate.batch(), alone=candidate.asks == ASSIGNMENT
        )
    except Failure:
        return True
    except NotSupported:
        return False
    return False


def kill_matrix(faults: Iterable[Fault], pool: list[Candidate], path: Path) -> dict[str, list[Candidate]]:
    """Return the candidates that find each fault, at most `ENOUGH`, the smallest first.

    Args:
        faults: the faults.
        pool: the candidates by size; candidates that other batches of `ci` add are appended.
        path: file with a line for each finished fault, which is continued. Lines of other faults, and of other code
            (`code_digest`), are ignored.
    """
    faults, code = list(faults), code_digest()
    finished = read_matrix(path, code)
    matrix = {fault.name: finished[fault.name] for fault in faults if fault.name in finished}
    waiting = [fault for fault in faults if fault.name not in matrix]
    with path.open("a", encoding="utf-8") as file, progress("Planting faults", len(waiting)) as advance:
        for fault in waiting:
            matrix[fault.name] = list(found_by(fault, pool))
            found = [as_fields(candidate) for candidate in matrix[fault.name]]
            file.write(json.dumps({"fault": fault.name, "code": code, "candidates": found}) + "\n")
            file.flush()
            advance(f"{fault.name}: {len(matrix[fault.name])}")
    return matrix


def code_digest() -> str:
    """Return a digest of all that a line of the matrix depends on: code of the suite, this module, torch."""
    own = code_lines(Path(__file__).read_text(encoding="utf-8"))
    return hashlib.sha256(f"{source_digest()} {torch.__version__} {own}".encode()).hexdigest()[:16]


def found_by(fault: Fault, pool: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield the smallest candidates that find a fault; if there are none, the first batch of `ci` that does.

    The check that failed on that batch may compare several calls, or judge an assigner alone. So the batch is a
    candidate only if a vector made of it, of a loss or else of an assigner, finds the fault too.
    """
    mixed, number = fault.check.startswith(PRECISION), 0
    for candidate in pool:
        may_show = candidate.mixed == mixed and (LONG in candidate.checks or fault.check != LONG)
        if may_show and number < ENOUGH and finds(fault, candidate):
            number += 1
            yield candidate
    if number or mixed or fault.check == LONG:
        return
    hit = attack(faulty(fault, exposes_stages=False), fault.check)
    if hit is None or not hit.failure.batch.origin.startswith("Recipe("):
        return
    recipe, checks = recipe_from(hit.failure.batch.origin), (fault.check.partition("[")[0],)
    possible = (Candidate(recipe, asks, checks) for asks in (LOSS, ASSIGNMENT))
    yield from islice((candidate for candidate in possible if finds(fault, candidate)), 1)


def read_matrix(path: Path, code: str) -> dict[str, list[Candidate]]:
    """Return the finished lines of a file of `kill_matrix` that were computed by this code.

    Args:
        path: the file, which may be missing, and whose last line may be incomplete after an interruption.
        code: digest of the code, `code_digest`.
    """
    if not path.is_file():
        return {}
    matrix = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line.get("code") == code:
            matrix[line["fault"]] = [from_fields(fields) for fields in line["candidates"]]
    return matrix


def as_fields(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as JSON values."""
    fields = {"recipe": repr(candidate.recipe), "asks": candidate.asks, "checks": list(candidate.checks)}
    return fields | ({"mixed": True} if candidate.mixed else {})


def from_fields(fields: Mapping[str, Any]) -> Candidate:
    """Return the candidate that `as_fields` converted."""
    return Candidate(
        recipe_from(fields["recipe"]), fields["asks"], tuple(fields["checks"]), fields.get("mixed", False)
    )


def choose(
    matrix: Mapping[str, Sequence[Candidate]], pool: Sequence[Candidate]
) -> list[tuple[Candidate, list[str]]]:
    """Return the chosen candidates, each with the faults that it finds, by greedy weighted set cover.

    First every fault is to be found once; then every fault is to be found, and every hazard to be present, `TWICE`. The
    weight of a candidate is the size of its files. A fault whose candidates are all too large is left out.
    """
    everything = dict.fromkeys(chain(chain.from_iterable(matrix.values()), pool))
    sizes = {candidate: size_of(candidate) for candidate in everything}
    offers = {candidate: elements_of(candidate, matrix) for candidate in everything}
    chosen: list[Candidate] = []
    cover(chosen, offers, sizes, dict.fromkeys(matrix, 1))
    cover(chosen, offers, sizes, dict.fromkeys(chain.from_iterable(offers.values()), TWICE))
    return [
        (candidate, [fault for fault, finding in matrix.items() if candidate in finding])
        for candidate in chosen
    ]


def cover(
    chosen: list[Candidate],
    offers: Mapping[Candidate, set[str]],
    sizes: Mapping[Candidate, int],
    wanted: dict[str, int],
) -> None:
    """Append candidates to `chosen` until every element is offered the wanted number of times, or a limit is reached.

    Args:
        chosen: the candidates chosen so far.
        offers: elements of each candidate.
        sizes: size of each candidate's files in bytes.
        wanted: number of times that each element is to be offered.
    """
    for candidate in chosen:
        for element in offers[candidate] & wanted.keys():
            wanted[element] -= 1
    while len(chosen) < MOST_VECTORS:
        left = MOST_BYTES - sum(sizes[candidate] for candidate in chosen)
        gains = {
            candidate: sum(wanted.get(element, 0) > 0 for element in elements) / sizes[candidate]
            for candidate, elements in offers.items()
            if candidate not in chosen and sizes[candidate] <= left
        }
        best = max(gains, key=lambda candidate: gains[candidate], default=None)
        if best is None or not gains[best]:
            return
        chosen.append(best)
        for element in offers[best] & wanted.keys():
            wanted[element] -= 1


def elements_of(candidate: Candidate, matrix: Mapping[str, Sequence[Candidate]]) -> set[str]:
    """Return the faults that a candidate finds, and its hazards with the prefix "hazard "."""
    hazards = candidate.batch().hazards - OPTIONAL - RARE
    return {fault for fault, finding in matrix.items() if candidate in finding} | {
        f"hazard {name}" for name in hazards
    }


def shipped_vectors() -> tuple[list[VectorBatch], dict[str, Any]]:
    """Return the batches of the shipped set, and the set's fields.

    Raises:
        ValueError: a batch differs from the listed one: this version of torch draws other random numbers.
    """
    fields: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    drawn = []
    for entry in fields["vectors"]:
        candidate = from_fields(entry)
        batch = candidate.batch()
        if batch.id != entry["id"]:
            raise ValueError(
                f"the batch of {entry['recipe']} has the id {batch.id}, expected {entry['id']}: torch "
                f"{torch.__version__} computes other numbers than the release that the set was made with"
            )
        drawn.append(VectorBatch(batch, candidate.asks, candidate.checks))
    return drawn, fields


def main(matrix_file: Path) -> None:
    """Compute the kill matrix, choose the set and write `vectors.json`."""
    make_draws_reproducible()
    torch.set_num_threads(1)
    pool = candidates()
    say(f"{len(pool)} candidates, {len(FAULTS)} faults")
    matrix = kill_matrix(FAULTS.values(), pool, matrix_file)
    chosen = choose(matrix, pool)
    found = set(chain.from_iterable(faults for _, faults in chosen))
    missed = sorted(FAULTS.keys() - found)
    size = sum(size_of(candidate) for candidate, _ in chosen)
    say(
        f"{len(chosen)} vectors, {size:,} bytes, find {len(found)} of {len(FAULTS)} faults; missed: {', '.join(missed)}"
    )
    fields = {
        "schema": 1,
        "set": NUMBER,
        "found": len(found),
        "planted": len(FAULTS),
        "missed": missed,
        "vectors": [
            {"id": candidate.batch().id} | as_fields(candidate) | {"finds": faults}
            for candidate, faults in chosen
        ],
    }
    FILE.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
