"""Text of an adapter file for a user's assigner or loss, from its signatures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from tal_conformance.implementations.inspection import Parameter, Target
from tal_reference import NEWEST

ASSIGNER_ARGUMENTS = {
    "inputs.scores": ("pd_scores", "pred_scores", "scores", "cls_scores", "pred_cls", "cls_preds"),
    "inputs.boxes": (
        "pd_bboxes",
        "pd_boxes",
        "pred_bboxes",
        "pred_boxes",
        "boxes",
        "bboxes",
        "decoded_bboxes",
    ),
    "inputs.anchors": ("anc_points", "anchor_points", "anchors", "points", "priors", "centers", "centres"),
    "inputs.labels": ("gt_labels", "labels", "gt_classes", "truth_labels"),
    "inputs.truth_boxes": ("gt_bboxes", "gt_boxes", "truth_boxes", "target_boxes"),
    "inputs.truth_mask": ("mask_gt", "gt_mask", "truth_mask", "pad_bbox_flag", "valid_mask"),
    "inputs.strides": ("stride_tensor", "strides", "stride"),
}
"""Expression for each input of an assigner, and names of parameters that mean it in common implementations."""
SETTINGS = {
    "numbers.topk": ("topk", "top_k", "k", "tal_topk"),
    "numbers.topk2": ("topk2", "tal_topk2"),
    "numbers.alpha": ("alpha", "tal_alpha"),
    "numbers.beta": ("beta", "tal_beta"),
    "numbers.box_gain": ("box_gain", "lambda_box"),
    "numbers.cls_gain": ("cls_gain", "lambda_cls"),
    "numbers.dfl_gain": ("dfl_gain", "lambda_dfl"),
    "(numbers.box_gain, numbers.cls_gain, numbers.dfl_gain)": ("gains", "loss_gains"),
    "head.classes": ("num_classes", "nc", "classes", "n_classes"),
    "head.reg_max": ("reg_max",),
    "list(head.strides)": ("stride", "strides", "fpn_strides"),
}
"""Expression for each setting, and names of constructor parameters that mean it."""
GAINS = {name: f"numbers.{name}_gain" for name in ("box", "cls", "dfl")}
"""Expression for each gain by a short name, which means a gain only beside the other two."""
PREDICTIONS = ("preds", "predictions", "feats", "feature_maps", "outputs", "pred", "p", "x")
ANNOTATIONS = ("batch", "targets", "annotations", "labels", "target", "gt")
SHAPES = {
    "inputs.scores": "(B, A, C) after the sigmoid",
    "inputs.boxes": "(B, A, 4) xyxy in pixels",
    "inputs.anchors": "(A, 2) centres in pixels",
    "inputs.labels": "(B, M, 1)",
    "inputs.truth_boxes": "(B, M, 4) xyxy in pixels",
    "inputs.truth_mask": "(B, M, 1)",
    "inputs.strides": "(A, 1) pixels",
}
LIMITS = """\
    # precisions = ()  # float32 alone; without this line it is judged under autocast to 16 bits too
    # def supports(self, head, hyperparameters):  # what your code does not do; there it has to raise
    #     return True if head.reg_max == 16 else "only 16 bins"

"""
"""Comments of an adapter that show how precisions and limits are declared."""
LOSS_VARIANTS = {
    "boxes and scores, rows by name": ("split", "by_name"),
    "feature maps, rows by name": ("maps", "by_name"),
    "boxes and scores, rows": ("split", "rows"),
    "feature maps, rows": ("maps", "rows"),
}
"""Ways in which losses take predictions and annotations; their signatures do not say which."""
PREDICTION_CODE = {
    "split": """\
        flat = torch.cat([level.flatten(2) for level in feature_maps], 2)  # (B, 4R + C, A)
        boxes, scores = flat.split((4 * head.reg_max, head.classes), 1)
        predictions = {"boxes": boxes, "scores": scores, "feats": list(feature_maps)}
""",
    "maps": """\
        predictions = list(feature_maps)  # (B, 4R + C, H, W) of each level
""",
}
ANNOTATION_CODE = {
    "by_name": """\
        rows = {"batch_idx": annotations[:, 0], "cls": annotations[:, 1], "bboxes": annotations[:, 2:]}
""",
    "rows": """\
        rows = annotations  # (N, 6): image, class, cx, cy, w, h, normalised
""",
}


@dataclass(frozen=True)
class AdapterText:
    """The source text of an adapter file, with the parts that the user has to complete.

    Attributes:
        variant: the form in which the adapter passes predictions and annotations to a loss; "" for an assigner.
        source: the text of the file.
        adapter: name of the adapter's class.
        missing: sentences about parameters whose meaning is unknown, and whose values the user has to fill in.
    """

    variant: str
    source: str
    adapter: str
    missing: tuple[str, ...]


def adapter_texts(target: Target, task: str, file: Path) -> list[AdapterText]:
    """Return the possible adapters of a target, the most likely adapter first.

    Args:
        target: the assigner or loss.
        task: the loss family.
        file: file that the adapter will be written to.

    Raises:
        ValueError: the signatures look neither like an assigner nor like a loss.
    """
    missing: list[str] = []
    if is_assigner(target):
        body = _assigner_body(target, missing)
        return [_text(target, task, file, body, "", missing)]
    if _loss_arguments(target.call) is None:
        raise ValueError(_neither(target))
    texts = []
    for variant, (predictions, annotations) in LOSS_VARIANTS.items():
        missing = []
        body = _loss_body(target, PREDICTION_CODE[predictions], ANNOTATION_CODE[annotations], missing)
        texts.append(_text(target, task, file, body, variant, missing))
    return texts


def is_assigner(target: Target) -> bool:
    """Return True if at least four parameters of the target's call have the names of assigner inputs."""
    return sum(_meaning(p.name, ASSIGNER_ARGUMENTS) is not None for p in target.call) >= 4


def _neither(target: Target) -> str:
    call = ", ".join(parameter.name for parameter in target.call) or "no parameters"
    return (
        f"{target.name} takes {call}: expected an assigner, with parameters such as pd_scores, pd_bboxes, anc_points, "
        "gt_labels, gt_bboxes, mask_gt, or a loss, with predictions and annotations, such as preds, batch"
    )


def _text(
    target: Target, task: str, file: Path, body: str, variant: str, missing: Sequence[str]
) -> AdapterText:
    adapter = f"{target.attribute.replace('.', '')}Adapter"
    adapter = adapter[:1].upper() + adapter[1:]
    torch = "import torch\n\n" if "torch." in body else ""
    spaces = "from types import SimpleNamespace\n\n" if "SimpleNamespace" in body else ""
    names = "AssignerInputs, Assignment" if variant == "" else "Loss"
    todo = "".join(f"# TODO: {line}\n" for line in missing)
    source = (
        f'"""Adapter of {target.name} for TAL Conformance.\n\n'
        'Written by `tal-conformance init`; edit it freely.\n"""\n\n'
        f"{spaces}{torch}{_import(target, file)}\n\nfrom tal_conformance import {names}\n\n"
        f"{todo}\n\nclass {adapter}:\n"
        f'    name = "{target.attribute}"\n'
        '    version = "unknown"  # version of your code, for the report\n'
        "    # the behaviour that it is held to; `tal-conformance identify` finds it\n"
        f"    {_dialect(target)}\n"
        f'    tasks = ("{task}",)\n\n{LIMITS}{body}'
    )
    return AdapterText(variant, source.replace("\n\n\n\n", "\n\n\n"), adapter, tuple(missing))


def _dialect(target: Target) -> str:
    """Return the line that declares the dialect: the newest, without `topk2` for code that has no parameter for it."""
    names = [parameter.name for parameter in (*target.constructor, *target.call)]
    if "model" in names or "numbers.topk2" in (_meaning(name, SETTINGS) for name in names):
        return f'dialect = "{NEWEST.name}"'
    return f'dialect = "{NEWEST.name}, topk2_ignored=yes"  # your code has no parameter for topk2'


def _import(target: Target, file: Path) -> str:
    top = target.attribute.partition(".")[0]
    if not target.where.endswith(".py"):
        return f"from {target.where} import {top}"
    path = Path(target.where).resolve()
    line = f"from {path.stem} import {top}"
    if path.parent == file.resolve().parent:
        return line
    return f'import sys\n\nsys.path.append("{path.parent}")\n{line}'


def _assigner_body(target: Target, missing: list[str]) -> str:
    arguments = []
    for parameter in target.call:
        meaning = _meaning(parameter.name, ASSIGNER_ARGUMENTS)
        if meaning is None and not parameter.required:
            continue
        if meaning is None:
            missing.append(_unknown(parameter, "input of the assigner"))
        name = f"{parameter.name}=" if parameter.keyword_only else ""
        shape = SHAPES.get(meaning or "", "?")
        arguments.append(f"{name}{meaning or 'None'},  # {parameter.name}: {shape}")
    made = _made(target, missing)
    return (
        "    def assign(self, inputs: AssignerInputs) -> Assignment:\n"
        "        head, numbers = inputs.head, inputs.hyperparameters\n"
        f"{made}"
        "        labels, boxes, scores, foreground, truth_index = under_test(\n"
        f"{indent(chr(10).join(arguments), ' ' * 12)}\n"
        "        )\n"
        "        # (B, A), (B, A, 4), (B, A, C), (B, A) bool, (B, A) in the image: reorder if yours differs\n"
        "        return Assignment(labels, boxes, scores, foreground, truth_index)\n"
    )


def _loss_body(target: Target, predictions: str, annotations: str, missing: list[str]) -> str:
    arguments = _loss_arguments(target.call)
    assert arguments is not None
    first, second = arguments
    more = [p for p in target.call if p.name not in (first, second)]
    extra = "".join(f", {argument}" for argument in _settings(more, missing, "argument of the loss"))
    made = _made(target, missing)
    return (
        "    def loss(self, feature_maps, annotations, head, hyperparameters) -> Loss:\n"
        "        numbers = hyperparameters\n"
        f"{made}{predictions}{annotations}"
        f"        result = under_test({first}=predictions, {second}=rows{extra})\n"
        "        total, items = result if isinstance(result, tuple) else (result, None)\n"
        "        if isinstance(items, dict):\n"
        "            items = torch.stack(list(items.values()))\n"
        "        # total: what is differentiated, times the number of images (LOSS-GAIN-1)\n"
        "        # items: (3,) box, cls, dfl as logged; None if there is only the total\n"
        "        return Loss(total=total, items=items)\n"
    )


MODEL = """\
        gains = SimpleNamespace(box=numbers.box_gain, cls=numbers.cls_gain, dfl=numbers.dfl_gain)
        detect = SimpleNamespace(stride=torch.tensor(head.strides), nc=head.classes, reg_max=head.reg_max)
        # stands for the model, of which a criterion reads the head and the gains
        model = SimpleNamespace(args=gains, model=[detect], parameters=lambda: iter(feature_maps))
"""


def _made(target: Target, missing: list[str]) -> str:
    """Return lines of code that assign the object under test to `under_test`; append unknown arguments to `missing`."""
    if target.kind != "class":
        return f"        under_test = {target.attribute}\n"
    model = [p for p in target.constructor if p.name == "model"]
    rest = [p for p in target.constructor if p.name != "model"]
    arguments = ["model=model"] * len(model) + _settings(rest, missing, "constructor parameter")
    lines = "".join(f"            {argument},\n" for argument in arguments)
    call = f"{target.attribute}(\n{lines}        )" if lines else f"{target.attribute}()"
    return f"{MODEL if model else ''}        under_test = {call}\n"


def _settings(parameters: Sequence[Parameter], missing: list[str], kind: str) -> list[str]:
    arguments = []
    gains = GAINS if GAINS.keys() <= {parameter.name for parameter in parameters} else {}
    for parameter in parameters:
        meaning = gains.get(parameter.name) or _meaning(parameter.name, SETTINGS)
        if meaning is not None:
            arguments.append(f"{parameter.name}={meaning}")
        elif parameter.required:
            missing.append(_unknown(parameter, kind))
            arguments.append(f"{parameter.name}=None")
    return arguments


def _unknown(parameter: Parameter, kind: str) -> str:
    return f"the {kind} {parameter.name!r} is None here: fill in its value"


def _loss_arguments(call: Sequence[Parameter]) -> tuple[str, str] | None:
    """Return the names of the parameters for predictions and annotations; None if one of them is missing."""
    names = [parameter.name for parameter in call]
    first = next((name for name in names if name in PREDICTIONS), None)
    second = next((name for name in names if name in ANNOTATIONS and name != first), None)
    return (first, second) if first and second else None


def _meaning(name: str, table: Mapping[str, tuple[str, ...]]) -> str | None:
    return next((meaning for meaning, names in table.items() if name.lower() in names), None)
