"""`tal-conformance init` recognises assigners and losses, fills in an adapter, and never overwrites a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tal_conformance.batches.strategies.trial_recipes import trial_recipes
from tal_conformance.commands import init, main
from tal_conformance.commands.adapter_text import adapter_texts
from tal_conformance.commands.init import BATCHES, Trial, report
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.inspection import Parameter, Target, signatures_of
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import NEWEST

MINE = """
import torch


class Assigner(torch.nn.Module):
    def __init__(self, topk, num_classes, temperature, alpha=0.5, eps=1e-9):
        super().__init__()

    def forward(self, pd_scores, pd_bboxes, anc_points, gt_labels, gt_bboxes, mask_gt, quality, epoch=0):
        ...


class Criterion:
    def __init__(self, model, tal_topk=10):
        ...

    def __call__(self, preds, batch):
        ...

    def loss(self, preds, batch):
        ...


def function(feats, targets, nc, reg_max=16):
    ...


class Adapter:
    def assign(self, inputs):
        ...


def neither(x):
    ...


built_in = len
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], Target]:
    """Return a function that reads the signatures of a named object in a file written from this module's text."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)

    def target(name: str) -> Target:
        fields = signatures_of(f"{path}:{name}")
        for part in ("constructor", "call", "adapter_methods"):
            fields[part] = tuple(Parameter(**p) if isinstance(p, dict) else p for p in fields[part])
        return Target(f"{path}:{name}", **fields)

    return target


def test_signatures(mine: Callable[[str], Target]):
    assigner = mine("Assigner")
    assert [p.name for p in assigner.constructor if p.required] == ["topk", "num_classes", "temperature"]
    assert [p.name for p in assigner.call][-2:] == ["quality", "epoch"]
    assert mine("Criterion").adapter_methods == ()  # loss(preds, batch) is not a method of the protocol
    assert mine("Adapter").adapter_methods == ("assign",)
    assert mine("function").kind == "function"


def test_an_assigner_is_filled_in_and_what_is_unknown_is_named(mine: Callable[[str], Target], tmp_path: Path):
    (text,) = adapter_texts(mine("Assigner"), "detect", tmp_path / "adapter.py")
    compile(text.source, "adapter.py", "exec")
    for line in (
        "topk=numbers.topk,",
        "num_classes=head.classes,",
        "alpha=numbers.alpha,",
        "temperature=None,",
    ):
        assert line in text.source
    assert "inputs.truth_mask,  # mask_gt: (B, M, 1)" in text.source
    assert "eps=" not in text.source  # a parameter with a default is not passed
    assert "epoch" not in text.source
    assert [line.split("'")[1] for line in text.missing] == ["quality", "temperature"]
    assert text.source.count("# TODO: ") == 2


@pytest.mark.parametrize(
    ("name", "dialect"),
    [("Criterion", "ultralytics-8.4.190"), ("function", "ultralytics-8.4.190, topk2_ignored=yes")],
)
def test_code_without_a_parameter_for_topk2_is_declared_to_ignore_it(
    name: str, dialect: str, mine: Callable[[str], Target], tmp_path: Path
):
    text = adapter_texts(mine(name), "detect", tmp_path / "adapter.py")[0]
    assert f'dialect = "{dialect}"' in text.source


def test_a_criterion_has_four_ways_to_take_its_inputs(mine: Callable[[str], Target], tmp_path: Path):
    texts = adapter_texts(mine("Criterion"), "detect", tmp_path / "adapter.py")
    assert len({text.source for text in texts}) == 4
    for text in texts:
        compile(text.source, "adapter.py", "exec")
        assert "model=model," in text.source
        assert "tal_topk=numbers.topk," in text.source
        assert text.missing == ()


def test_a_function_is_called_with_its_settings(mine: Callable[[str], Target], tmp_path: Path):
    text = adapter_texts(mine("function"), "detect", tmp_path / "adapter.py")[0]
    assert "under_test(feats=predictions, targets=rows, nc=head.classes, reg_max=head.reg_max)" in text.source


def test_short_names_mean_gains_only_together(mine: Callable[[str], Target], tmp_path: Path):
    target = mine("function")
    parameters = {name: Parameter(name, required=True, keyword_only=False) for name in ("box", "cls", "dfl")}
    for names, line in (
        (("box", "cls", "dfl"), "box=numbers.box_gain, cls=numbers.cls_gain, dfl=numbers.dfl_gain"),
        (("cls",), "cls=None"),
    ):
        call = (*target.call, *(parameters[name] for name in names))
        text = adapter_texts(replace(target, call=call), "detect", tmp_path / "adapter.py")[0]
        assert line in text.source
        assert bool(text.missing) == (names == ("cls",))


def test_another_function_is_neither_assigner_nor_loss(mine: Callable[[str], Target], tmp_path: Path):
    with pytest.raises(ValueError, match="takes x: expected an assigner, with parameters such as pd_scores"):
        adapter_texts(mine("neither"), "detect", tmp_path / "adapter.py")


def test_a_target_in_another_folder_is_imported_from_there(mine: Callable[[str], Target], tmp_path: Path):
    beside, apart = (
        adapter_texts(mine("function"), "detect", folder / "adapter.py")[0].source
        for folder in (tmp_path, tmp_path / "sub")
    )
    assert "sys.path" not in beside
    assert f'sys.path.append("{tmp_path}")\nfrom mine import function' in apart


def test_an_existing_file_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(name: str) -> Target:
        raise UnknownImplementation(f"{name} was read")

    monkeypatch.setattr(init, "inspected", refuse)
    file = tmp_path / "adapter.py"
    file.write_text("mine")
    assert main(["init", str(file), "--from", "a:b"]) == 2
    assert "exists; choose another name, or replace it with --force" in capsys.readouterr().err
    assert main(["init", str(file), "--from", "a:b", "--force"]) == 2
    assert "a:b was read" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (Trial(passed=trial_recipes()), ["10 of 10 batches conform", "next:"]),
        (
            Trial(failing="raised TypeError: no k", raised=BATCHES),
            ["failed on 10 of 10 batches: raised TypeError: no k", "0 of 10 batches conform"],
        ),
        (Trial(failing="importing it raised ImportError"), ["failed: importing it raised ImportError"]),
        (Trial(failing="raised", failing_batch="abc: 1 image", raised=1), ["  batch abc: 1 image"]),
    ],
)
def test_the_report_says_what_is_missing(
    trial: Trial, expected: list[str], mine: Callable[[str], Target], tmp_path: Path
):
    text = adapter_texts(mine("function"), "detect", tmp_path / "adapter.py")[0]
    lines = report(tmp_path / "adapter.py", text, trial)
    assert [line for line in lines if line in expected] == expected
    assert lines[-1].endswith("adapter.py:FunctionAdapter")


def differing_by(**settings: object) -> Trial:
    passed = [
        recipe for recipe in trial_recipes() if recipe.reg_max == 16 and recipe.hyperparameters.topk == 10
    ]
    subject = Subject(implementation_from(ReferenceAdapter(NEWEST), "mine"), "cpu")
    failure = Failure(
        subject, passed[0].build(), Verdict.DIVERGENT, "cls", "LOSS-CLS-1", "cls loss is 2, expected 1"
    )
    return Trial(failure, passed=tuple(passed[1:]), differed=(replace(passed[0], **settings),))


def test_a_setting_that_only_differing_batches_have_is_named(mine: Callable[[str], Target], tmp_path: Path):
    text = adapter_texts(mine("function"), "detect", tmp_path / "adapter.py")[0]
    lines = report(tmp_path / "adapter.py", text, differing_by(reg_max=1))
    assert (
        "differs only with reg_max 1 (the other batches have 16): mend it, or declare in `supports` that your code is "
        "not meant for it, then"
    ) in lines
    assert "supports" in text.source


@pytest.mark.parametrize(
    "trial",
    [
        differing_by(),
        replace(differing_by(reg_max=1), cause="alpha"),
        replace(differing_by(reg_max=1), passed=()),
    ],
)
def test_no_setting_is_named_without_evidence(trial: Trial, mine: Callable[[str], Target], tmp_path: Path):
    text = adapter_texts(mine("function"), "detect", tmp_path / "adapter.py")[0]
    assert not any("differs only" in line for line in report(tmp_path / "adapter.py", text, trial))


def test_batches_with_the_usual_bins_are_searched_for_a_cause_of_their_own():
    usual = tuple(recipe for recipe in trial_recipes() if recipe.reg_max == 16)
    other = replace(usual[0], reg_max=1)
    trial = Trial(passed=usual[2:], differed=(*usual[:2], other))
    whole, alone = init._groups(trial)
    assert whole == (trial.differed, trial.passed, "")
    assert alone[:2] == (list(usual[:2]), list(usual[2:]))
    assert "with reg_max 16" in alone[2]
    assert len(list(init._groups(replace(trial, differed=usual[:2])))) == 1
    assert len(list(init._groups(replace(trial, differed=(other,))))) == 1
