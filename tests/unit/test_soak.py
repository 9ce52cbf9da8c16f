"""The judgement of the samples that a soak (a long repeated run) takes: growth is reported."""

import pytest
from tests.soak import Sample, problems


def samples(**last: float) -> list[Sample]:
    """Return 30 samples, one per minute: the last ten have the given values, all others constant values."""
    usual = Sample(minutes=0, status=0, memory=700.0, files=11, threads=1, processes=1)
    return [
        usual._replace(minutes=float(minute), **(last if minute > 20 else {}))  # type: ignore[arg-type]
        for minute in range(1, 31)
    ]


def test_flat_samples_are_right():
    assert problems(samples(), 30) == []


def test_growth_before_the_first_third_is_allowed():
    grown = [found._replace(memory=found.memory / 2) if found.minutes < 6 else found for found in samples()]
    assert problems(grown, 30) == []


@pytest.mark.parametrize("memory", [600.0, 740.0])
def test_memory_that_differs_by_more_than_five_percent(memory: float):
    (wrong,) = problems(samples(memory=memory), 30)
    assert wrong == f"the memory was 700.0 MiB after 10 minutes and {memory:.1f} MiB at the end"


@pytest.mark.parametrize("name", ["files", "threads", "processes"])
def test_a_count_that_grows(name: str):
    (wrong,) = problems(samples(**{name: 12}), 30)
    assert wrong.startswith(f"the number of {name} grew from")


def test_a_round_that_fails():
    assert problems(samples(status=1), 30) == ["a round ended with status 1"]


def test_rounds_that_are_too_long():
    (wrong,) = problems(samples()[:1], 0.5)
    assert wrong.startswith("the rounds are too long")
