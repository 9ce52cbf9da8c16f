"""All choices in which dialects differ, with clause and meaning in words, and the notation of composed dialects.

A composed dialect is written as a dialect's name and the choices that differ from it:
"ultralytics-8.4.190, overlap=iou, edge_counts=yes".
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from enum import Enum
from typing import Any

from tal_reference.choice import (
    CHOICES_OF_BRANCHES,
    CHOICES_OF_ROTATED_BOXES,
    END_TO_END,
    OVERLAP_NAMES,
    ROTATED,
    SHARED_WITH_ROTATED,
    Choice,
)
from tal_reference.choices_of_losses import CHOICES_OF_LOSSES
from tal_reference.dialect import (
    OFFICIAL,
    Dialect,
    OverlapsCompared,
    SmallBoxFloor,
)
from tal_reference.variations import (
    BuiltInK,
    CentreRadius,
    Contested,
    DroppedPicks,
    Exponents,
    Overlap,
    Rows,
    spelt,
)

NORM_EPS = 1e-9, 1e-8, 1e-7, 1e-6, 1e-12, 1e-16
"""Values of `norm_eps`: those of the releases, and others of projects that compute in other dtypes."""

NEAR = CentreRadius.ONE_AND_A_HALF, CentreRadius.TWO_AND_A_HALF
"""Values of `centre_radius` that limit the candidates."""

CHOICES: dict[str, Choice] = {
    "rows": Choice(
        "ANN-1",
        {
            Rows.NORMALISED: "annotation rows hold centre, width and height as shares of the input's size",
            Rows.PIXELS: "annotation rows hold centre, width and height in pixels",
            Rows.CORNERS: "annotation rows hold left, top, right and bottom as shares of the input's size",
            Rows.CONVERTED_TWICE: "annotation rows are converted to corners twice",
        },
        {
            Rows.PIXELS: "annotation rows in pixels",
            Rows.CORNERS: "annotation rows as corners",
            Rows.CONVERTED_TWICE: "annotation rows converted to corners twice",
        },
    ),
    "sides_exchanged": Choice(
        "ANN-1",
        {
            False: "x is scaled by the input's width and y by its height",
            True: "x is scaled by the input's height and y by its width",
        },
        {True: "the input's width and height exchanged"},
    ),
    "image_index_ignored": Choice(
        "ANN-1",
        {
            False: "an image has the annotation rows with its index",
            True: "every image has the annotation rows of all images",
        },
        {True: "the image index of annotation rows ignored"},
    ),
    "rows_sorted": Choice(
        "ANN-1",
        {
            True: "annotation rows must be sorted by image",
            False: "annotation rows may be in any order",
        },
        {True: "annotation rows sorted by image", False: "annotation rows in any order"},
    ),
    "every_row_counts": Choice(
        "ANN-3",
        {
            False: "a ground truth counts if its corner coordinates add up to more than zero",
            True: "every ground truth counts that is not all zeros",
        },
        {True: "every annotation row counted"},
    ),
    "edge_counts": Choice(
        "TAL-CAND-1",
        {
            False: "an anchor on the edge of a ground truth is not a candidate",
            True: "an anchor on the edge of a ground truth is a candidate",
        },
        {True: "anchors on an edge counted"},
    ),
    "centre_radius": Choice(
        "TAL-CAND-1",
        {CentreRadius.NONE: "a candidate may be anywhere inside a ground truth"}
        | {each: f"a candidate is less than {each.value} strides from the ground truth's centre" for each in NEAR},
        {each: f"candidates less than {each.value} strides from a ground truth's centre alone" for each in NEAR},
    ),
    "reach_limits": Choice(
        "TAL-CAND-1",
        {
            False: "an anchor may be as far from a side as the ground truth is large",
            True: "an anchor farther from a side than the bins reach is not a candidate",
        },
        {True: "anchors farther from a side than the bins reach left out"},
    ),
    "small_box_floor": Choice(
        "TAL-CAND-2",
        {
            SmallBoxFloor.NONE: "small ground truths keep their size",
            SmallBoxFloor.TO_FIRST_STRIDE: "a side shorter than the first stride counts as one of the first stride "
            "where anchors are sought inside it",
            SmallBoxFloor.BELOW_FIRST_STRIDE: "a side shorter than the first stride counts as one of the second stride "
            "where anchors are sought inside it",
            SmallBoxFloor.BELOW_SECOND_STRIDE: "a side shorter than the second stride counts as one of the second "
            "stride where anchors are sought inside it",
        },
        {
            SmallBoxFloor.NONE: "small ground truths not widened",
            SmallBoxFloor.TO_FIRST_STRIDE: "sides below the first stride widened to it",
            SmallBoxFloor.BELOW_FIRST_STRIDE: "sides below the first stride widened to the second",
            SmallBoxFloor.BELOW_SECOND_STRIDE: "sides below the second stride widened to it",
        },
    ),
    "one_level": Choice(
        "TAL-CAND-2",
        {True: "a head with one level is accepted", False: "a head with one level raises"},
        {True: "heads with one level accepted", False: "at least two levels required"},
    ),
    "overlap": Choice(
        "TAL-MET-1",
        {value: f"u is the {name} of ground truth and predicted box" for value, name in OVERLAP_NAMES.items()},
        {value: f"{name} in place of CIoU in the assignment" for value, name in OVERLAP_NAMES.items()}
        | {Overlap.V_SQUARED: "v squared in the CIoU of the assignment"},
    ),
    "signed_overlap": Choice(
        "TAL-MET-1",
        {False: "an overlap below zero counts as zero", True: "an overlap below zero stays negative"},
        {True: "negative overlaps not set to zero"},
    ),
    "overlaps_compared": Choice(
        "TAL-CONF-1",
        {
            OverlapsCompared.CANDIDATES: "a contested anchor goes to the best overlap among the ground truths that "
            "contain it",
            OverlapsCompared.EVERYWHERE: "a contested anchor goes to the best overlap among all ground truths, also "
            "those that do not contain it",
        },
        {
            OverlapsCompared.CANDIDATES: "overlaps compared among candidates only",
            OverlapsCompared.EVERYWHERE: "overlaps compared off candidates too",
        },
    ),
    "metric_masked": Choice(
        "TAL-MET-1",
        {
            False: "t is zero where u is zero only",
            True: "t is zero off candidates, also where u is not",
        },
        {True: "t set to zero off candidates, and overlaps kept"},
    ),
    "exponents": Choice(
        "TAL-MET-1",
        {
            Exponents.GIVEN: "alpha and beta are those of the hyperparameters",
            Exponents.BUILT_IN: "alpha and beta are 0.5 and 6, whatever the hyperparameters say",
            Exponents.ONE_AND_SIX: "alpha and beta are 1 and 6, whatever the hyperparameters say",
            Exponents.EXCHANGED: "alpha is the exponent of the overlap and beta that of the score",
        },
        {
            Exponents.BUILT_IN: "alpha and beta built in as 0.5 and 6",
            Exponents.ONE_AND_SIX: "alpha and beta built in as 1 and 6",
            Exponents.EXCHANGED: "alpha and beta exchanged",
        },
    ),
    "built_in_k": Choice(
        "TAL-TOPK-1",
        {
            BuiltInK.NO: "k is that of the hyperparameters",
            BuiltInK.TEN: "k is 10, whatever the hyperparameters say",
            BuiltInK.THIRTEEN: "k is 13, whatever the hyperparameters say",
            BuiltInK.NINE: "k is 9, whatever the hyperparameters say",
        },
        {each: f"k built in as {each.value}" for each in (BuiltInK.NINE, BuiltInK.TEN, BuiltInK.THIRTEEN)},
    ),
    "k_offset": Choice(
        "TAL-TOPK-1",
        {0: "k anchors are selected", -1: "k - 1 anchors are selected", 1: "k + 1 anchors are selected"},
        {-1: "k lowered by one", 1: "k raised by one"},
    ),
    "k_cut": Choice(
        "TAL-TOPK-2",
        {False: "fewer anchors than k raise", True: "k is cut to the number of anchors"},
        {True: "k cut to the number of anchors"},
    ),
    "dropped_picks": Choice(
        "TAL-TOPK-1",
        {
            DroppedPicks.NONE: "a ground truth takes candidates with t of zero too, if fewer than k are better",
            DroppedPicks.ZERO: "a ground truth does not take anchors whose t is zero",
            DroppedPicks.TINY: "a ground truth does not take anchors whose t is at most 1e-9",
        },
        {DroppedPicks.ZERO: "picks with t of zero dropped", DroppedPicks.TINY: "picks with t of at most 1e-9 dropped"},
    ),
    "at_least_one": Choice(
        "TAL-TOPK-1",
        {
            False: "a ground truth without candidates takes no anchor",
            True: "a ground truth without an anchor takes the one with its largest t, if that is not zero",
        },
        {True: "at least one anchor for a ground truth"},
    ),
    "contested": Choice(
        "TAL-CONF-1",
        {
            Contested.OVERLAP: "a contested anchor goes to the largest u",
            Contested.ANY_OVERLAP: "a contested anchor goes to the largest overlap, also off candidates",
            Contested.CLAIMANTS: "a contested anchor goes to the largest u among the ground truths that take it",
            Contested.METRIC: "a contested anchor goes to the largest t",
            Contested.CLAIMANTS_METRIC: "a contested anchor goes to the largest t among the ground truths that take it",
            Contested.FIRST: "a contested anchor goes to the first ground truth that takes it",
            Contested.LAST: "a contested anchor goes to the last ground truth that takes it",
        },
        {
            Contested.ANY_OVERLAP: "contested anchors settled by overlaps off candidates too",
            Contested.CLAIMANTS: "contested anchors settled among those that take them",
            Contested.METRIC: "contested anchors settled by t",
            Contested.CLAIMANTS_METRIC: "contested anchors settled by t among those that take them",
            Contested.FIRST: "contested anchors given to the first",
            Contested.LAST: "contested anchors given to the last",
        },
    ),
    "topk2": Choice(
        "TAL-CONF-2",
        {True: "topk2 can reduce the anchors of a ground truth", False: "topk2 is not supported"},
        {True: "support of topk2", False: "no support of topk2"},
    ),
    "topk2_ignored": Choice(
        "TAL-CONF-2",
        {False: "topk2 is not silently ignored", True: "topk2 is accepted and has no effect"},
        {True: "topk2 ignored"},
    ),
    "topk2_offset": Choice(
        "TAL-CONF-2",
        {0: "topk2 anchors are kept", -1: "topk2 - 1 anchors are kept", 1: "topk2 + 1 anchors are kept"},
        {-1: "topk2 lowered by one", 1: "topk2 raised by one"},
    ),
    "widened_target": Choice(
        "TAL-TGT-1",
        {
            False: "the target box is the ground truth as annotated",
            True: "the target box is the widened ground truth",
        },
        {True: "target boxes widened too"},
    ),
    "norm_before_conflict": Choice(
        "TAL-NORM-1",
        {
            False: "t* and u* are the largest of the positives of a ground truth",
            True: "t* and u* are the largest of the anchors that a ground truth took, with those it lost",
        },
        {True: "normalisation before the conflict"},
    ),
    "norm_clamped": Choice(
        "TAL-NORM-1",
        {False: "eps is added to t*", True: "t* is clamped at eps"},
        {True: "t* clamped at eps"},
    ),
    "norm_eps": Choice(
        "TAL-NORM-1",
        {value: f"the eps of the normalisation is {value:.0e}" for value in NORM_EPS},
        {value: f"{value:.0e} as the eps of the normalisation" for value in NORM_EPS},
    ),
    "norm_scaled": Choice(
        "TAL-NORM-1",
        {True: "target scores are scaled by u*", False: "the best target score of a ground truth is about 1"},
        {False: "target scores not scaled by u*"},
    ),
    **CHOICES_OF_LOSSES,
    **CHOICES_OF_BRANCHES,
    **CHOICES_OF_ROTATED_BOXES,
}
"""Every choice of a dialect by the name of its field: those of detection in the order of the stages, then others."""


def choices_of(task: str) -> tuple[str, ...]:
    """Return the names of the choices that the reference follows in a task, in the order of `CHOICES`.

    The branches of an end-to-end head have a k2 of their own (E2E-2), whatever `topk2` says.
    """
    shared = SHARED_WITH_ROTATED if task == ROTATED else ()
    unread = ("topk2",) if task == END_TO_END else ()
    followed = (name for name, choice in CHOICES.items() if task in choice.tasks or name in shared)
    return tuple(name for name in followed if name not in unread)


def meaning(field: str, value: Any) -> str:
    """Return the meaning of a value of the choice `field`, as part of a sentence."""
    return CHOICES[field].words.get(value, f"{field.replace('_', ' ')} is {value}")


def phrase(field: str, value: Any) -> str:
    """Return the meaning of a value of the choice `field` in a few words, to follow the word "with"."""
    choice = CHOICES[field]
    return choice.short.get(value) or meaning(field, value)


def differences(dialect: Dialect, base: Dialect) -> dict[str, Any]:
    """Return the choices in which a dialect differs from `base`, with its values, ordered by stage."""
    return {name: getattr(dialect, name) for name in CHOICES if getattr(dialect, name) != getattr(base, name)}


def nearest_official(dialect: Dialect) -> Dialect:
    """Return the official dialect that differs from a dialect in fewest choices; among several, the newest."""
    return min(OFFICIAL, key=lambda base: len(differences(dialect, base)))


def spelling(dialect: Dialect) -> str:
    """Return the notation of a dialect, which `parse` converts to a dialect with the same choices.

    Dialects of several tasks may have one name. `parse` returns that of detection; `eras_of_tasks.for_task` converts.
    """
    base, choices = dialect.name.partition(",")[0].strip(), stated_choices(dialect)
    if choices is None:
        base, choices = nearest_official(dialect).name, differences(dialect, nearest_official(dialect))
    return ", ".join([base, *(spelt(name, choices[name]) for name in CHOICES if name in choices)])


def stated_choices(dialect: Dialect) -> dict[str, Any] | None:
    """Return the choices that a dialect's name lists, or None if the name does not describe the dialect.

    A name such as "ultralytics-8.3.253, angle_term=yes" states a choice even where it is that of detection: in another
    task the same release may have made another one.
    """
    try:
        name, stated = _split(dialect.name)
    except ValueError:
        return None
    bases = [replace(official, **stated) for official in OFFICIAL if official.name == name]
    return stated if any(not differences(dialect, base) for base in bases) else None


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a dialect and the choices after it.

    Raises:
        ValueError: a choice or its value is unknown.
    """
    name, *choices = (part.strip() for part in text.split(","))
    return name, dict(_read(choice) for choice in choices)


def title(dialect: Dialect) -> str:
    """Return the name of a dialect for reports, followed by its choices unless the name contains them."""
    return f"{dialect.name} ({spelling(dialect)})" if stated_choices(dialect) is None else dialect.name


def parse(text: str) -> Dialect:
    """Return the dialect that a text denotes: a dialect's name, and choices after commas.

    The dialect keeps the text as its name, because a choice that changes nothing in detection may change another task.

    Args:
        text: such as "ultralytics-8.4.190, overlap=iou, edge_counts".

    Raises:
        ValueError: the name of the dialect, of a choice or of a value is unknown; the message has similar names.
    """
    known = {official.name: official for official in reversed(OFFICIAL)}  # detection's precede those of other tasks
    name = text.partition(",")[0].strip()
    if name not in known:
        raise ValueError(_unknown("dialect", name, dict.fromkeys(official.name for official in OFFICIAL)))
    name, choices = _split(text)
    written = ", ".join(part.strip() for part in text.split(","))
    return replace(known[name], name=written, **choices) if choices else known[name]


def _read(choice: str) -> tuple[str, Any]:
    """Return name and value of a choice from its notation: "overlap=iou", or "edge_counts" for "edge_counts=yes".

    Raises:
        ValueError: the field or its value is unknown.
    """
    field, given, value = (part.strip() for part in choice.partition("="))
    names = {name.replace("_", " "): name for name in CHOICES}
    key = field.lower().replace("_", " ").replace("-", " ")
    if key not in names:
        raise ValueError(_unknown("choice", field, CHOICES))
    field = names[key]
    default = {entry.name: entry.default for entry in fields(Dialect)}[field]
    if isinstance(default, bool):
        values: dict[str, Any] = {"yes": True, "no": False, "true": True, "false": False}
        value = value or ("" if given else "yes")
    elif isinstance(default, Enum):
        values = {member.value.lower(): member for member in type(default)}
    else:
        try:
            return field, type(default)(value)
        except ValueError:
            number = "a whole number" if isinstance(default, int) else "a number"
            raise ValueError(f"{field}={value!r}: expected {number} such as {default}") from None
    found = values.get(value.lower().replace("_", " ").replace("-", " "))
    if found is None:
        raise ValueError(_unknown(f"value of {field}", value, values))
    return field, found


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return an error message about an unknown name, with similar known names."""
    names = list(known)
    nearest = get_close_matches(name.lower(), names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else "."
    plural = kind.replace("value", "values") if kind.startswith("value") else f"{kind}s"
    return f"unknown {kind} {name!r}{hint} Known {plural}: {', '.join(names)}"
