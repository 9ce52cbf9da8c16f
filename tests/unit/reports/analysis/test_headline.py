"""The headline: one true sentence about all implementations, tasks and planted faults of a run."""

import pytest

from tal_reports.analysis.headline import headline


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "Nothing was tested"),
        (["not tested"], "Nothing was tested"),
        (["conforms"], "n0 conforms"),
        (["conforms", "not tested", "conforms"], "n0 and n2 conform"),
        (["conforms"] * 4, "All 4 implementations conform"),
        (["conforms", "not finished"], "n1 did not finish"),
        (["conforms", "inconclusive"], "n1 is inconclusive"),
        (["not finished"] * 4, "4 of 4 implementations are not finished or inconclusive"),
        (["conforms", "divergent"], "n1 diverges"),
        (
            ["conforms", "divergent", "error", "nondeterministic"],
            "n1 diverges, n2 fails and n3 is not deterministic",
        ),
        (["error"], "n0 fails"),
        (["error", "divergent"], "2 of 2 implementations do not conform"),
        (["divergent"] * 4 + ["conforms"], "4 of 5 implementations do not conform"),
    ],
)
def test_the_headline_is_one_true_sentence(results: list[str], words: str):
    implementations = [{"name": f"n{number}", "result": result} for number, result in enumerate(results)]
    assert headline(implementations, finished=True) == words
    conforms = words.endswith(("conform", "conforms"))
    so_far = " so far" if conforms and "do not" not in words else ""
    assert headline(implementations, finished=False) == words + so_far


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"a": ["conforms"]}, "a conforms"),
        ({"a": ["conforms"] * 4}, "a conforms in 4 tasks"),
        ({"a": ["conforms"] * 4, "b": ["conforms"]}, "a and b conform"),
        ({name: ["conforms"] * 2 for name in "abcd"}, "All 4 implementations conform"),
        ({"a": ["conforms", "divergent"]}, "a (task 1) diverges"),
        ({"a": ["divergent"] * 4}, "In 4 of 4 tasks, a does not conform"),
        ({"a": ["inconclusive"] * 4}, "In 4 of 4 tasks, a is not finished or inconclusive"),
        ({"a": ["divergent"] * 4, "b": ["conforms"]}, "1 of 2 implementations does not conform"),
    ],
    ids=str,
)
def test_the_headline_counts_an_implementation_once_for_all_its_tasks(
    results: dict[str, list[str]], words: str
):
    implementations = [
        {
            "name": f"{name} (task {task})" if task else name,
            "task": f"task {task}" if task else "detect",
            "result": each,
        }
        for name, by_task in results.items()
        for task, each in enumerate(by_task)
    ]
    assert headline(implementations, finished=True) == words


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((20, 20, 0), "Every planted fault was found"),
        ((20, 18, 2), "Every planted fault was found, but for 2 argued to be equivalent"),
        ((20, 17, 2), "1 of 20 planted faults not found"),
    ],
)
def test_the_headline_of_planted_faults(counts: tuple[int, int, int], words: str):
    planted, killed, equivalent = counts
    survived = planted - killed - equivalent
    told = {"mutants": planted, "killed": killed, "equivalent": equivalent, "survived": survived}
    assert headline([], finished=True, power={"ci": told}) == words
    twice = headline([], finished=False, power={"ci": told, "nightly": told})
    assert "so far" in twice
    assert twice.startswith("Every" if not survived else "2 of 40")
