"""In a reproducible profile, the values that Hypothesis draws for a check depend only on the check's name."""

from hypothesis import settings
from hypothesis import strategies as st

from tal_conformance.checks.registry import Check

REPEATING = settings(max_examples=20, derandomize=True, database=None)


def draws(name: str, repeats: bool, documented: bool) -> list[int]:
    """Return the integers drawn for a check with the given name; `documented` adds a docstring to its code."""
    drawn: list[int] = []
    if documented:

        def body(number: int) -> None:
            """This docstring changes the function's source, on which Hypothesis' own seed would depend."""
            drawn.append(number)
    else:

        def body(number: int) -> None:
            drawn.append(number)

    check = Check(name, ("TAL-TOPK",), st.integers(0, 10**9), "number", 1, 4, None, "first", body)
    REPEATING(check.generated(repeats=repeats))()
    return drawn


def test_the_name_decides():
    assert draws("topk", repeats=True, documented=True) == draws("topk", repeats=True, documented=False)


def test_another_name_draws_otherwise():
    assert draws("topk", repeats=True, documented=False) != draws("metric", repeats=True, documented=False)


def test_without_it_the_source_decides():
    assert draws("topk", repeats=False, documented=True) != draws("topk", repeats=False, documented=False)


def test_a_further_task_has_a_part_of_the_examples():
    """`test_for` divides the profile's number of examples, down to the minimum of the check."""
    numbers = []
    for parts in (1, 3, 1000):
        check = Check("parts", (), st.integers(0, 10**9), "number", 1, 4, None, "first", lambda number: None)
        test = check.test_for("detect", parts)
        numbers.append(test._hypothesis_internal_use_settings.max_examples)  # type: ignore[attr-defined]
    whole = settings.default.max_examples if settings.default is not None else 0
    assert numbers == [whole, max(4, whole // 3), 4]
