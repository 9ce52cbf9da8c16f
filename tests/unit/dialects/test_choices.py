"""The choices in which two dialects differ, and for each choice the smallest batch with different results."""

from dataclasses import fields, replace
from typing import Any

from tal_conformance import batches
from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.choices import CLAUSES, choices_between, conforms_to, failure_on
from tal_conformance.dialects.moves import values_of
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Subject
from tal_reference import CHOICES, DIALECTS, NEWEST, Dialect, Hyperparameters, SmallBoxFloor
from tal_reference.dialect import OFFICIAL


def test_every_choice_has_words_and_a_clause():
    names = {field.name for field in fields(Dialect)} - {"name"}
    assert set(CHOICES) == set(CLAUSES) == names
    for dialect in DIALECTS.values():
        assert all(getattr(dialect, name) in CHOICES[name].words for name in names)


def test_every_choice_that_a_search_names_has_words_to_follow_with():
    """The fallback is a clause with a verb, which cannot follow "with"."""
    for name, choice in CHOICES.items():
        in_sentences = [
            value for value in values_of(name) if any(getattr(d, name) != value for d in OFFICIAL)
        ]
        assert [value for value in in_sentences if value not in choice.short] == [], name
        assert not [
            words for words in choice.short.values() if " is " in words or " are " in words or "may" in words
        ]


def test_a_dialect_does_not_differ_from_itself():
    assert choices_between(NEWEST, replace(NEWEST, name="other")) == []


def test_one_choice():
    """For dialects that differ in the small-box floor, `choices_between` returns clause, words and batch."""
    other = replace(NEWEST, name="other", small_box_floor=SmallBoxFloor.NONE)
    (choice,) = choices_between(NEWEST, other)
    assert (choice.name, choice.clause) == ("small_box_floor", "TAL-CAND-2")
    assert choice.before != choice.after
    assert repr(choice.recipe) == "Recipe(images=((Truth('ordinary'),),), strides=(8, 16))"
    assert choice.changed == replace(other, name=NEWEST.name)


def test_what_a_dialect_does_not_know_must_be_refused():
    """On a head with one level, which the dialect does not support, returning a result fails and raising conforms."""
    dialect = DIALECTS["ultralytics-8.4.7"]
    one_level = Recipe(images=((batches.Truth("ordinary"),),))
    returns = implementation_from(ReferenceAdapter(NEWEST), "returns")
    raises = implementation_from(ReferenceAdapter(dialect), "raises")
    found = failure_on(Subject(replace(returns, dialect=dialect), "cpu"), one_level)
    assert found is not None
    assert found.clause == "TAL-CAND-2"
    assert found.summary == (
        "returned a result where it must raise an error, "
        "because dialect ultralytics-8.4.7 does not support heads with a single level"
    )
    assert failure_on(Subject(raises, "cpu"), one_level) is None


def test_other_exponents_are_judged_by_the_assigner_alone():
    """TAL-MET-1: a batch with alpha = 1 runs only the assigner, because the loss has fixed exponents."""
    calls: list[str] = []

    class CountingAdapter(ReferenceAdapter):
        def assign(self, inputs: Any) -> Any:
            calls.append("assign")
            return super().assign(inputs)

        def loss(self, *arguments: Any) -> Any:
            calls.append("loss")
            return super().loss(*arguments)

    subject = Subject(implementation_from(CountingAdapter(), "counting"), "cpu")
    assert conforms_to(subject, Recipe(hyperparameters=Hyperparameters(alpha=1.0)))
    assert conforms_to(subject, Recipe())
    assert calls == ["assign", "loss"]
