"""Grouping of the divergences in a run log by their cause."""

from tests.common.run_logs import CLAUSES, batch, difference, divergence, error, picture

from tal_reports.analysis.causes import causes
from tal_reports.log.batches import Batches

STAGES = list(CLAUSES)


def grid(cells: int) -> dict:
    return picture(levels=[{"stride": 8, "rows": cells, "columns": cells}])


def test_one_cause_of_many_lines_has_its_smallest_batch_first():
    lines = [
        divergence(1, test="test_a", picture=grid(9)),
        divergence(2, test="test_b", picture=grid(4), device="cuda"),
        divergence(3, test="test_c", picture=grid(5), dtype="float16"),
    ]
    (cause,) = causes(lines, STAGES)
    assert cause.example["test"] == "test_b"
    assert [line["test"] for line in cause.lines] == ["test_b", "test_c", "test_a"]
    assert cause.every("device") == ["cuda", "cpu"]


def test_numbers_do_not_make_another_cause():
    said = "u is {} at image {}, expected {} within 2e-07"
    lines = [
        divergence(summary=said.format(*n))
        for n in (("0.5", 0, "1e-9"), ("-inf", 3, "0x7f"), ("nan", 12, "7"))
    ]
    assert len(causes(lines, STAGES)) == 1


def test_words_clauses_stages_verdicts_and_implementations_make_another_cause():
    lines = [
        divergence(),
        divergence(summary="another sentence"),
        divergence(clause="TAL-CONF-2"),
        divergence(stage="overlap"),
        divergence(verdict="nondeterministic"),
        divergence(name="b"),
    ]
    assert len(causes(lines, STAGES)) == len(lines)


def test_the_suite_can_name_the_cause():
    one = [divergence(summary="a", cause="same"), divergence(summary="b", cause="same")]
    two = [divergence(summary="a", cause="one"), divergence(summary="a", cause="two")]
    assert (len(causes(one, STAGES)), len(causes(two, STAGES))) == (1, 2)


def test_the_worst_implementation_then_the_worst_verdict_then_the_earliest_stage():
    lines = [
        divergence(name="mild", stage="decode"),
        divergence(name="bad", stage="gradients"),
        divergence(name="bad", stage="overlap"),
        divergence(name="bad", stage="overlap", verdict="nondeterministic"),
        error(name="bad"),
        divergence(name="bad", stage="overlap") | {"stage": "a stage of tomorrow"},
    ]
    order = [
        (cause.example["implementation"], cause.verdict, cause.example["stage"])
        for cause in causes(lines, STAGES)
    ]
    assert order == [
        ("bad", "error", ""),
        ("bad", "nondeterministic", "overlap"),
        ("bad", "divergent", "overlap"),
        ("bad", "divergent", "gradients"),
        ("bad", "divergent", "a stage of tomorrow"),
        ("mild", "divergent", "decode"),
    ]


def test_batches_are_counted_only_for_unambiguous_causes():
    batches = Batches()
    for number in range(5):
        failed = {"verdict": "divergent", "stage": "conflict", "clause": "TAL-CONF-1"}
        batches.add(batch(number, "my-assigner", **failed))
    (cause,) = causes([divergence()], STAGES, batches)
    assert cause.batches == 5
    assert [
        cause.batches for cause in causes([divergence(), divergence(summary="else")], STAGES, batches)
    ] == [
        None,
        None,
    ]
    assert [cause.batches for cause in causes([divergence(name="other")], STAGES, batches)] == [None]


def test_ids_are_the_same_in_every_run_and_differ_between_causes():
    lines = [
        divergence(1, summary="x is 3"),
        divergence(2, summary="y"),
        difference(),
        difference(against="another"),
    ]
    ids = [cause.id for cause in causes(lines, STAGES)]
    again = [
        cause.id for cause in causes([divergence(99, summary="x is 4", test="other"), *lines[1:]], STAGES)
    ]
    assert ids == again
    assert len(set(ids)) == 4
    assert all(len(identity) == 10 for identity in ids)


def test_causes_follow_the_stage_order_of_their_log():
    lines = [divergence(stage="decode"), divergence(stage="gradients"), divergence(stage="top-k")]
    stages = ["top-k", "gradients"]
    assert [cause.example["stage"] for cause in causes(lines, stages)] == ["top-k", "gradients", "decode"]
    assert [cause.example["stage"] for cause in causes(lines, STAGES)] == ["decode", "top-k", "gradients"]


def test_one_place_and_several_are_one_cause():
    summaries = ("is background (1 place)", "is background (2 places)", "is background (12 places)")
    assert len(causes([divergence(n, summary=text) for n, text in enumerate(summaries)], STAGES)) == 1
    assert (
        len(
            causes(
                [divergence(0, summary="1 place differs"), divergence(1, summary="2 spaces differ")], STAGES
            )
        )
        == 2
    )
