"""Command line arguments of every command. The module does not import torch, so that `--help` is fast.

Each function adds the arguments of the command with its name to that command's parser.
"""

import argparse
from pathlib import Path

from tal_conformance.core.arguments import name_among, positive
from tal_conformance.core.task import DETECT, E2E, TASKS

IDENTIFICATION_SECONDS = 60
"""Budget of processor time of `identify`."""
OVERHEAD_ROUNDS = 30
"""Number of timed steps with, and without, the recorder."""
CORRECT_IMPLEMENTATIONS = ("ultralytics", "article", "reference", "rearranged", "rearranged-float64")
"""Correct implementations that differ in the order of their operations; `measure` measures them if none is named."""
VECTOR_TASKS = tuple(name for name, task in TASKS.items() if task.branches == ("",) and not task.extras)
"""Loss families that `export` writes: those whose batches are feature maps of one branch and annotations."""
SHIPPED = "shipped"
"""Name of the shipped set of vectors, in place of a profile."""
VECTOR_PROFILES = (SHIPPED, "dev", "ci", "nightly")
DIAGNOSED = ("faults", "pairs", "triples")
"""Deviations on which `identify --measure` measures the search for a cause."""
VISIBLE = ("stages", "outputs", "loss")
"""Results that the implementations of `identify --measure` expose."""
COMPARED_TASKS = ("detect", "e2e", "obb")
"""Loss families whose releases can be compared: those with a table of eras from their first release on."""
SELECTIONS = ("cached", "each", "edges")
"""Releases of `eras`: those in the cache; the first of each era; or both sides of every edge and the newest on PyPI."""


def init(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="adapter file to write, such as my_adapter.py"
    )
    parser.add_argument(
        "--from",
        dest="target",
        required=True,
        metavar="NAME",
        help="your assigner or loss, a class or function: package.module:object or path/to/file.py:object",
    )
    parser.add_argument(
        "--task", choices=tuple(TASKS), default="detect", help="loss family (default: detect)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def replay(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `replay`."""
    parser.add_argument(
        "case",
        nargs="+",
        metavar="CASE",
        help="case file, id of a case of a run, or a folder of case files (of a run or a recording)",
    )
    parser.add_argument(
        "--implementation", action="append", metavar="NAME", help="implementation to judge; may be repeated"
    )
    parser.add_argument(
        "--against", metavar="DIALECT", help="judge every implementation by this dialect instead of its own"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="device to run on: cpu, cuda, mps, xpu or another type of device that torch knows (default: cpu)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="judge the outcomes stored beside the cases, without running an implementation",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="print batch, stages and picture of every case, which is the default for a single one",
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="folder of the pictures")


def doctor(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument(
        "case",
        nargs="+",
        metavar="CASE",
        help="case file, id of a case of a run, or a folder of case files (of a run or a recording)",
    )
    parser.add_argument(
        "--dialect",
        metavar="NAME",
        help="dialect of the loss; default: that of the run or of the recorded release, or the newest",
    )


def explain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    parser.add_argument("case", metavar="CASE", help="case file of a run, or the name of a case of a run")
    parser.add_argument("--image", type=int, default=0, metavar="N", help="image of the batch, from 0")
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument(
        "--anchor", type=int, metavar="N", help="anchor of the image, from 0, level by level"
    )
    selection.add_argument(
        "--gt", type=int, metavar="N", help="ground truth of the image, from 0; default: all"
    )
    parser.add_argument(
        "--branch",
        choices=E2E.branches,
        help="branch of an end-to-end head (default: one2one, which predicts after the training)",
    )
    parser.add_argument(
        "--dialect",
        metavar="NAME",
        help="dialect to explain; default: the implementation's, that of the run or recorded release, or the newest",
    )
    parser.add_argument(
        "--implementation", metavar="NAME", help="add this implementation's result to the explanation"
    )


def _compared_task(parser: argparse.ArgumentParser) -> None:
    """Add the argument `--task` of a command that compares dialects."""
    parser.add_argument(
        "--task",
        type=name_among("task", COMPARED_TASKS),
        metavar="{" + ",".join(COMPARED_TASKS) + "}",
        help="loss family: detection, end-to-end heads (YOLOv10, YOLO26) or rotated boxes (default: detect, or what "
        "the implementation has)",
    )


def diff(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    _compared_task(parser)
    parser.add_argument(
        "implementations", nargs=2, metavar="NAME", help="implementation, such as ultralytics==8.3.236"
    )
    parser.add_argument(
        "--cases",
        action="append",
        type=Path,
        metavar="CASE",
        help="case file or folder of your own, such as a recording, on which the effect is told; may be repeated",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="file to write the page with pictures to (default: in the report folder)",
    )


def bisect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bisect`."""
    _compared_task(parser)
    parser.add_argument("releases", metavar="A..B", help="range of releases, such as 8.3.236..8.4.6")
    parser.add_argument(
        "--clause", metavar="CLAUSE", help="find changes of this clause only, such as TAL-CAND-2"
    )


def identify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `identify`."""
    _compared_task(parser)
    parser.add_argument("implementation", nargs="?", metavar="NAME", help="a value of --implementation")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=IDENTIFICATION_SECONDS,
        metavar="N",
        help="budget of processor time of the search for choices (default: %(default)s)",
    )
    parser.add_argument(
        "--measure",
        type=name_among("kind of deviations", DIAGNOSED, "kinds"),
        metavar="{faults,pairs,triples}",
        help="without NAME: identify the reference with each planted fault, or with random pairs or triples of "
        "changed choices, and print how many are named",
    )
    parser.add_argument(
        "--number",
        type=positive,
        default=20,
        metavar="N",
        help="with --measure: how many (default: %(default)s)",
    )
    parser.add_argument(
        "--first",
        type=positive,
        default=1,
        metavar="N",
        help="with --measure: the first one, counted from 1, to continue an earlier measurement",
    )
    parser.add_argument(
        "--visible",
        type=name_among("mode", VISIBLE, "modes"),
        metavar="{stages,outputs,loss}",
        default="outputs",
        help="with --measure: the visible results: the assigner's stages, its outputs, or the loss alone "
        "(default: outputs)",
    )


def clause(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `clause`."""
    parser.add_argument(
        "clauses",
        nargs="+",
        metavar="CLAUSE",
        help="a clause such as TAL-CAND-2, or a group of clauses such as TAL",
    )


def findings(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `findings`."""
    parser.add_argument(
        "findings",
        nargs="*",
        metavar="NAME",
        help="findings to print as the text of an issue (default: list all)",
    )
    parser.add_argument(
        "--run", action="store_true", help="run the scripts of the findings with the installed release"
    )


def eras(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eras`."""
    _compared_task(parser)
    parser.add_argument(
        "--releases",
        type=name_among("selection of releases", SELECTIONS, "selections of releases"),
        metavar="{" + ",".join(SELECTIONS) + "}",
        default="cached",
        help="releases to check: those in the cache (default), the first of each era, or both sides "
        "of every edge between eras and the newest on PyPI",
    )


def record(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `record`."""
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder of the case files")
    parser.add_argument(
        "--every",
        type=int,
        default=500,
        metavar="N",
        help="store the batch of every n-th step; 0 for none (default: 500)",
    )
    parser.add_argument(
        "--limit-mb",
        type=float,
        default=500.0,
        metavar="MB",
        help="size limit of all files together in MB (default: 500)",
    )
    parser.add_argument(
        "training",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="command that starts the training, such as: -- yolo detect train data=my.yaml",
    )


def overhead(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `overhead`."""
    parser.add_argument(
        "--rounds",
        type=int,
        default=OVERHEAD_ROUNDS,
        metavar="N",
        help="number of timed steps with, and without, the recorder (default: 30)",
    )


def export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new or empty folder for the vectors")
    parser.add_argument(
        "--task",
        type=name_among("task", VECTOR_TASKS),
        default=DETECT.name,
        metavar="{" + ",".join(VECTOR_TASKS) + "}",
        help="loss family (default: detect)",
    )
    parser.add_argument(
        "--profile",
        type=name_among("profile", VECTOR_PROFILES),
        default=SHIPPED,
        metavar="{" + ",".join(VECTOR_PROFILES) + "}",
        help="profile whose batches are written; shipped: a small set that finds nearly all planted faults (default: "
        "shipped)",
    )
    parser.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="number of batches of each test, instead of the profile's",
    )
    parser.add_argument(
        "--dialect",
        metavar="DIALECT",
        help="dialect by which outcomes are judged, unless they name another (default: the newest)",
    )


def judge(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `judge`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder that `export` wrote")
    parser.add_argument(
        "--outcomes",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder with the outcomes of a program; may be repeated (default: every folder in FOLDER/outcomes)",
    )
    parser.add_argument(
        "--against", metavar="DIALECT", help="judge every program by this dialect instead of its own"
    )
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="folder of the runs")


def measure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `measure`."""
    parser.add_argument(
        "--examples", type=positive, default=100, metavar="N", help="batches of each strategy"
    )
    parser.add_argument(
        "--implementation",
        action="append",
        metavar="NAME",
        help=f"implementation to measure, repeatable (default: {', '.join(CORRECT_IMPLEMENTATIONS)})",
    )


def power(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `power`."""
    parser.add_argument("fault", nargs="*", metavar="FAULT", help="planted faults to use (default: all)")
    parser.add_argument(
        "--mutants",
        type=name_among(
            "kind of mutants",
            ("faults", "official", "official-obb", "official-e2e", "reference", "history", "all"),
            "kinds of mutants",
        ),
        metavar="{faults,official,official-obb,official-e2e,reference,history,all}",
        default="faults",
        help="faults: the planted faults (default); official, reference: the source of each with one change; "
        "history: the reference in every dialect, judged by the neighbouring ones",
    )
    parser.add_argument(
        "--profile",
        type=name_among("profile", ("dev", "ci", "nightly")),
        metavar="{dev,ci,nightly}",
        default="ci",
        help="profile whose batches are used (default: ci)",
    )
    parser.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="number of batches of each test (default: that of the profile)",
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        default="*",
        help="pattern that names of mutants must match, such as '*bbox_iou*'",
    )
    parser.add_argument(
        "--processes",
        type=positive,
        default=0,
        metavar="N",
        help="number of mutants judged at once (default: number of cores)",
    )
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="folder of the runs")
