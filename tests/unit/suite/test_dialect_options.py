"""Options `--dialect` and `--against` accept composed dialects, and suggest names for a mistyped name."""

import pytest

from tal_conformance.suite.options import add_options, against, declared
from tal_reference import DIALECTS, NEWEST, Dialect, Overlap


def config(*arguments: str, setting: str = "") -> pytest.Config:
    """Return a configuration with the suite's options, without pytest's other plugins."""
    from _pytest.config import get_config

    made = get_config()
    add_options(made._parser)
    parsed = made._parser.parse_known_args(list(arguments))
    made.option = parsed
    made._inicache["conformance_dialect"] = setting
    return made


@pytest.mark.parametrize("option", ["--dialect", "--against"])
def test_an_option_takes_a_composition(option: str):
    read = {"--dialect": declared, "--against": against}[option]
    dialect = read(config(option, "ultralytics-8.4.190, overlap=iou"))
    assert dialect is not None
    assert dialect.overlap is Overlap.IOU
    assert read(config()) is None


@pytest.mark.parametrize("option", ["--dialect", "--against"])
def test_a_mistyped_choice_is_a_usage_error_with_the_nearest_name(option: str):
    with pytest.raises(pytest.UsageError, match="unknown choice 'overlop'; did you mean 'overlap'"):
        config(option, "article, overlop=iou")


def test_the_setting_declares_a_dialect():
    assert declared(config(setting="article")) is DIALECTS["article"]
    assert declared(config("--dialect", NEWEST.name, setting="article")) is NEWEST
    with pytest.raises(pytest.UsageError, match="conformance_dialect: unknown dialect 'artikle'"):
        declared(config(setting="artikle"))


def test_a_title_lists_the_choices_of_a_name_of_its_own():
    from tal_reference.choices import title

    assert title(NEWEST) == NEWEST.name
    assert title(NEWEST.but(edge_counts=True)) == "ultralytics-8.4.190, edge_counts=yes"
    assert title(Dialect("my-fork", edge_counts=True)) == "my-fork (ultralytics-8.4.190, edge_counts=yes)"
