"""Storage of recorded batches within a size limit."""

from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.training.selection import EVERY, FIRST, LARGEST, MOST, NO_GT
from tal_conformance.training.store import HEADER, CaseStore

BATCHES = [
    Recipe(((Truth("ordinary", at=(column, row)),),), cells=(16, 16)).build()
    for column in (0, 1)
    for row in range(4)
]
SIZE = max(
    HEADER + batch.annotations.nbytes + sum(level.nbytes for level in batch.feature_maps) for batch in BATCHES
)


def filled(folder: Path, room: float, *reasons: str) -> CaseStore:
    shelf = CaseStore(folder, int(room * SIZE))
    for step, reason in enumerate(reasons):
        shelf.add(BATCHES[step], step, {(0, reason)})
    return shelf


def steps(shelf: CaseStore) -> list[int]:
    return [one.step for one in shelf.cases]


def test_files_are_batches_and_nothing_lies_beside_them(tmp_path: Path):
    shelf = filled(tmp_path, 9, FIRST, EVERY, EVERY)
    assert [Batch.load(one.path).id for one in shelf.cases] == [batch.id for batch in BATCHES[:3]]
    assert sorted(tmp_path.iterdir()) == [one.path for one in shelf.cases]
    assert shelf.size == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("room", [1, 2, 3, 4.5])
@pytest.mark.parametrize(
    "reasons",
    [[FIRST, EVERY, EVERY, LARGEST, MOST, EVERY], [FIRST] + [LARGEST] * 5, [FIRST, NO_GT] + [EVERY] * 4],
)
def test_the_budget_is_kept_at_every_moment(tmp_path: Path, room: float, reasons: list[str]):
    shelf = CaseStore(tmp_path, int(room * SIZE))
    for step, reason in enumerate(reasons):
        shelf.add(BATCHES[step], step, {(0, reason)})
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= shelf.limit
    assert 0 in steps(shelf)


def test_beaten_records_go_first(tmp_path: Path):
    assert steps(filled(tmp_path, 3, FIRST, LARGEST, LARGEST, EVERY)) == [0, 2, 3]


def test_a_batch_is_beaten_only_where_all_its_records_are(tmp_path: Path):
    shelf = CaseStore(tmp_path, 9 * SIZE)
    shelf.add(BATCHES[0], 0, {(0, LARGEST), (0, MOST)})
    shelf.add(BATCHES[1], 1, {(0, LARGEST)})
    assert [one.rank for one in shelf.cases] == [2, 2]
    shelf.add(BATCHES[2], 2, {(0, MOST)})
    assert [one.rank for one in shelf.cases] == [0, 2, 2]


def test_the_two_losses_of_an_end_to_end_head_have_their_own_records(tmp_path: Path):
    shelf = CaseStore(tmp_path, 3 * SIZE)
    for step, which in enumerate((0, 1)):
        shelf.add(BATCHES[step], step, {(which, LARGEST)})
    assert [one.rank for one in shelf.cases] == [2, 2]


def test_nth_ones_are_thinned(tmp_path: Path):
    assert steps(filled(tmp_path, 4, FIRST, *[EVERY] * 7)) == [0, 1, 5, 7]


def test_what_is_less_interesting_than_all_others_is_not_kept(tmp_path: Path):
    shelf = filled(tmp_path, 3, FIRST, NO_GT, LARGEST)
    assert not shelf.add(BATCHES[5], 5, {(0, EVERY)})
    assert steps(shelf) == [0, 1, 2]


def test_what_is_too_large_makes_no_room(tmp_path: Path):
    shelf = filled(tmp_path, 2, FIRST, EVERY)
    large = Recipe(cells=(60, 60)).build()
    assert not shelf.add(large, 5, {(0, LARGEST)})
    assert steps(shelf) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2
