"""Formatting of names, numbers and times."""

import pytest

from tal_reports import text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain ünïcode 猫 \U0001f600\n\t", "plain ünïcode 猫 \U0001f600\n\t"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u202eb\u200b\ufeff", "a\\u202eb\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\x00\r\x7f\x9f", "\\x00\\r\\x7f\\x9f"),
    ],
)
def test_control_and_invisible_characters_are_escaped(given: str, shown: str):
    assert text.visible(given) == shown
    assert text.visible(given).encode()


def test_long_text_loses_its_middle():
    assert text.shortened("x" * 30, 30) == "x" * 30
    short = text.shortened("a" * 600 + "b" * 600, 30)
    assert short == "a" * 20 + " … (1,170 characters left out) … " + "b" * 10


def test_rows_of_wrapped_lines_are_counted():
    assert text.wrapped_rows("", 10) == 0
    assert text.wrapped_rows(f"{'a' * 10}\n\n{'b' * 11}", 10) == 1 + 1 + 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (4.1e-5, "41 µs"),
        (0.0032, "3.2 ms"),
        (7.06, "7.06 s"),
        (0.9999, "1 s"),
        (98.2, "98.2 s"),
        (161, "2 min 41 s"),
        (3900, "1 h 5 min"),
        (0, "0 µs"),
        ("inf", "inf"),
        (None, "–"),
    ],
)
def test_durations(value: object, words: str):
    assert text.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(12, "12 B"), (1536, "1.5 KiB"), (183_500_800, "175 MiB"), (2**43, "8.19e+03 GiB")]
)
def test_sizes(value: int, words: str):
    assert text.size(value) == words


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((1, 1.0), ("inf", float("inf")), ("1", None), (None, None), (True, None), ([], None)),
        *((10**400, float("inf")), (-(10**400), float("-inf"))),
    ],
)
def test_reals(value: object, number: float | None):
    assert text.real(value) == number


def test_numbers_with_nouns_and_lists():
    assert text.counted(1, "batch") == "1 batch"
    assert text.counted(2104, "batch") == "2,104 batches"
    assert text.counted(0, "line") == "0 lines"
    assert [text.listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_times():
    assert text.clock("2025-11-24T02:10:33.123+00:00") == "2025-11-24 02:10:33 UTC"
    assert text.clock("yesterday") == "yesterday"
    assert text.clock(None) == "unknown"
    assert text.moment("2025-11-24T02:10:33") is None
    assert text.moment(17) is None
