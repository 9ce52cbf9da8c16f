"""Synthetic run logs in the format of the suite, including hostile content."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tal_reports import RunLog

CLAUSES = {
    "decode": "DEC-2",
    "candidates": "TAL-CAND-1",
    "overlap": "TAL-MET-1",
    "metric": "TAL-MET-1",
    "top-k": "TAL-TOPK-1",
    "conflict": "TAL-CONF-1",
    "targets": "TAL-TGT-1",
    "normalisation": "TAL-NORM-1",
    "cls": "LOSS-CLS-1",
    "box": "LOSS-BOX-1",
    "dfl": "LOSS-DFL-1",
    "total": "LOSS-GAIN-1",
    "gradients": "LOSS-GRAD-1",
}
GROUPS = ["DEC", "ANN", "TAL-CAND", "TAL-MET", "TAL-TOPK", "TAL-CONF", "TAL-NORM", "TAL-TGT", "LOSS"]
HAZARDS = {
    "image_without_gt": "an image has no ground truth",
    "nested": "one ground truth lies inside another",
    "identical_boxes": "two ground truths have the same box",
    "tiny": "a side is shorter than the first stride",
    "contested": "two ground truths share a candidate anchor",
    "quantised": "predictions take few values",
    "dfl_clamp": "a target side is beyond the last bin",
}
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>`${7*7}`{{ 7*7 }}\u202egnp\x1b[31m\ud800&amp;"
)
ENVIRONMENT = {
    "python": "3.12.3",
    "torch": "2.14.1+cpu",
    "ultralytics": "8.4.190",
    "platform": "Linux-6.8-x86_64",
    "cpu": "Example CPU @ 2.5 GHz (2 cores)",
    "cuda": None,
    "threads": 1,
    "git": "0123456789ab",
    "flags": {"deterministic": False, "float32_matmul_precision": "highest"},
}


def implementation(name: str = "ultralytics", **fields: Any) -> dict[str, Any]:
    known = {
        "version": "8.4.190",
        "dialect": "ultralytics-8.4.190",
        "capabilities": ["assign", "loss", "stages"],
    }
    return {"name": name, **known, **fields}


def run_line(implementations: Iterable[dict[str, Any]] = (), **fields: Any) -> dict[str, Any]:
    line = {
        "profile": "ci",
        "seed": "0",
        "command": ["pytest", "conformance", "--implementation", "ultralytics"],
        "environment": ENVIRONMENT,
        "devices": {"cpu": "tested", "cuda": "not tested: no such device"},
        "implementations": list(implementations) or [implementation()],
        "stages": [{"name": stage, "clause": clause} for stage, clause in CLAUSES.items()],
        "terms": ["box", "cls", "dfl"],
        "hazards": HAZARDS,
    }
    return line | fields


def batch(number: int = 0, name: str = "ultralytics", **fields: Any) -> dict[str, Any]:
    group = GROUPS[number % len(GROUPS)]
    chance = random.Random(number)
    names = list(HAZARDS)
    line = {
        "implementation": name,
        "test": f"test_{group.lower().replace('-', '_')}",
        "clause_group": group,
        "case": f"{number:012x}",
        "device": "cpu",
        "dtype": "float32",
        "verdict": chance.choices(["exact", "within_bound", "admissible"], [90, 8, 2])[0],
        "uniqueness": chance.choices(["unique", "tie", "near_tie"], [80, 18, 2])[0],
        "stages": {stage: round(chance.random() ** 4, 3) for stage in CLAUSES},
        "hazards": sorted(chance.sample(names[:-1], chance.randint(0, 4))),
        "phase": "generate",
        "milliseconds": round(1 + 5 * chance.random(), 2),
    }
    return line | fields


def picture(**fields: Any) -> dict[str, Any]:
    """Return the data of a picture: 32 x 32 px, stride 8, two overlapping ground truths, anchor 6 assigned wrongly."""
    drawn = {
        "image": 0,
        "width": 32,
        "height": 32,
        "levels": [{"stride": 8, "rows": 4, "columns": 4}],
        "truths": [
            {"box": [2.0, 3.0, 22.0, 21.0], "label": 0, "real": True},
            {"box": [10.0, 3.0, 31.0, 29.0], "label": 1, "real": True},
        ],
        "reference": [[0, 0, 0.41], [1, 0, 0.62], [5, 0, 0.8], [6, 1, 0.7], [7, 1, 0.3], [10, 1, 0.9]],
        "implementation": [[0, 0, 0.41], [1, 0, 0.62], [5, 0, 0.85], [6, 0, 0.7], [10, 1, 0.9], [14, 1, 0.2]],
        "stage": "conflict",
        "focus": [6],
        "k": 10,
        "kept": None,
        "items": {"box": 1.25, "cls": 2.0, "dfl": 0.5},
        "facts": [
            {
                "candidates": 4,
                "positives": 3,
                "kth": 0.0,
                "best_metric": 0.3,
                "best_overlap": 0.8,
                "widened": None,
            },
            {
                "candidates": 6,
                "positives": 3,
                "kth": 0.0,
                "best_metric": 0.4,
                "best_overlap": 0.9,
                "widened": None,
            },
        ],
        "anchors": {
            "5": anchor([[0, 0.9, 0.8, 0.3, 1, 0, 1]], loss=[0.2, 0.1, 0.05]),
            "6": anchor(
                [[1, 0.7, 0.64, 0.05, 2, 0, 1], [0, 0.61, 0.41, 0.004, 4, 0, 1]], loss=[0.5, 0.2, 0.05]
            ),
            "15": anchor([], outside=[1, 1.5]),
        },
    }
    return drawn | fields


def anchor(pairs: list[list[float]], **fields: Any) -> dict[str, Any]:
    """Return the data of an anchor's explanation; `pairs` has one row of values for each ground truth."""
    return {"box": [9.5, 2.5, 30.0, 28.0], "pairs": pairs, "loss": [0.0, 0.1, 0.0], "outside": None} | fields


def large_picture(number: int = 0) -> dict[str, Any]:
    """Return a picture's data: 640 x 640 px, 20 ground truths, 100 positives per assignment, 48 explained anchors."""
    chance = random.Random(number)
    truths = []
    for _ in range(20):
        x, y, w, h = (
            chance.uniform(0, 500),
            chance.uniform(0, 500),
            *(chance.uniform(20, 200) for _ in "wh"),
        )
        truths.append(
            {"box": [round(v, 2) for v in (x, y, x + w, y + h)], "label": chance.randrange(80), "real": True}
        )
    taken = sorted(chance.sample(range(8400), 120))
    sides = [[[a, a % 20, round(chance.random(), 6)] for a in half] for half in (taken[:100], taken[20:])]
    facts = {"positives": 5, "kth": 0.001, "best_metric": 0.3, "best_overlap": 0.8, "widened": None}
    told = {
        str(a): anchor(
            [[g, 0.612345, 0.512345, 0.00123456, 4, 0, 1] for g in range(a % 20, a % 20 + 3)],
            loss=[0.123456, 0.00234567, 0.0345678],
        )
        for a in taken[:48]
    }
    return picture(
        width=640, height=640, truths=truths, reference=sides[0], implementation=sides[1], focus=taken[:6],
        anchors=told,
        levels=[{"stride": s, "rows": 640 // s, "columns": 640 // s} for s in (8, 16, 32)],
        facts=[facts | {"candidates": 40 + g} for g in range(23)],
    )  # fmt: skip


def strip(first: str | None) -> list[dict[str, Any]]:
    lines, before = [], True
    for number, (stage, clause) in enumerate(CLAUSES.items()):
        state = "agrees" if before else "given"
        if stage == first:
            state, before = "diverges", False
        margin = {"agrees": number / 20, "diverges": 4.2e5, "given": 0.1}[state]
        lines.append({"stage": stage, "clause": clause, "state": state, "margin": margin})
    return lines


def divergence(
    number: int = 0, name: str = "my-assigner", stage: str = "conflict", **fields: Any
) -> dict[str, Any]:
    case = f"{0xC0FFEE00 + number:012x}"
    line = {
        "implementation": name,
        "test": "test_contested_anchor",
        "clause_group": "TAL-CONF",
        "case": case,
        "device": "cpu",
        "dtype": "float32",
        "verdict": "divergent",
        "stage": stage,
        "clause": CLAUSES[stage],
        "summary": "an anchor goes to a ground truth that it does not overlap most",
        "description": "1 image 32x32 px, stride 8, 2 classes: image 0: class 0 at (2, 3)-(22, 21), class 1"
        " at (10, 3)-(31, 29); varied predictions",
        "recipe": "Recipe(cells=(4, 4), classes=2, images=((Truth(), Truth('overlapping', 1)),))",
        "stages": strip(stage),
        "values": [
            {
                "where": "image 0, anchor 6",
                "quantity": "owner",
                "reference": "GT 1",
                "implementation": "GT 0",
                "bound": "none: an index",
            },
            {
                "where": "image 0, GT 0, anchor 6",
                "quantity": "overlap u",
                "reference": "0.41230482",
                "implementation": "0.41230482",
                "bound": "2.4e-07",
            },
        ],
        "picture": picture(),
        "reproduce": {
            "pytest": f"pytest conformance --implementation my.py:A --case runs/1/cases/{case}.safetensors",
            "python": f'from conformance import check\n\ncheck("my.py:A", "runs/1/cases/{case}.safetensors")',
            "example": "@example(recipe=Recipe(cells=(4, 4), images=((Truth(), Truth('overlapping', 1)),)))",
        },
        "traceback": None,
    }
    return line | fields


def error(number: int = 0, name: str = "broken", **fields: Any) -> dict[str, Any]:
    raised = {
        "verdict": "error",
        "stage": "",
        "clause": "",
        "summary": "raised IndexError: index 5 is out of bounds for dimension 1 with size 4",
        "stages": [],
        "values": [],
        "picture": None,
        "traceback": "Traceback (most recent call last):\n" + '  File "my.py", line 12\n    x[5]\n' * 12
        + "IndexError: index 5 is out of bounds for dimension 1 with size 4\n",
    }  # fmt: skip
    return divergence(number, name) | raised | fields


def difference(name: str = "article", stage: str = "candidates", **fields: Any) -> dict[str, Any]:
    line = divergence(7, name, stage)
    for key in ("verdict", "reproduce", "traceback", "stages", "test", "clause_group", "device", "dtype"):
        del line[key]
    told = {
        "dialect": "article",
        "against": "ultralytics-8.4.190",
        "summary": "a ground truth with a side of 6 px has no candidates: it is not widened",
        "picture": picture(
            truths=[{"box": [9.0, 9.0, 15.0, 15.0], "label": 0, "real": True}],
            reference=[[5, 0, 0.8]],
            implementation=[],
            focus=[5],
        ),
    }
    return line | told | fields


def benchmark(
    name: str = "assign forward", implementation: str = "reference", ratio: float = 0.62
) -> dict[str, Any]:
    return {
        "name": f"{name} 16x640 80c 50gt",
        "group": f"{name} 16x640 80c 50gt",
        "implementation": implementation,
        "device": "cpu",
        "seconds": 0.0412 * ratio,
        "ratio_to_official": ratio,
        "ratio_low": ratio * 0.94,
        "ratio_high": ratio * 1.07,
        "rounds": 24,
        "peak_bytes": 183_500_800,
    }


def training(**fields: Any) -> dict[str, Any]:
    line = {
        "implementation": "ultralytics",
        "steps": 20,
        "summary": "weights after training with the reference's loss in place of the official one",
        "bound": 3.1e-5,
        "worst": 4.4e-6,
        "agrees": True,
    }
    return line | fields


def synchronisations(**fields: Any) -> dict[str, Any]:
    place = {
        "kind": "synchronisation",
        "operation": "Tensor.__bool__",
        "where": "my/assigner.py:7: if claims.max() > 1:",
        "count": 26,
    }
    line = {"implementation": "article", "device": "cuda (simulated)", "batches": 13, "places": [place]}
    return line | {"synchronisations": 160, "transfers": 39} | fields


def walkthrough(**fields: Any) -> dict[str, Any]:
    """Return the data of a walkthrough page with the small image of `picture` in place of a photograph."""
    told = {
        "schema": 1,
        "batch": "0000c0ffee00",
        "origin": "recorded: a network in training, step 6 of 7",
        "photo": "data:image/jpeg;base64,/9j/4AAQSkZJRg==",
        "names": ["cat", "dog"],
        "picture": picture(implementation=None),
        "truth": 1,
        "anchor": 10,
        "decode": {
            "shares": [[0.5, 0.25, 0.25, 0.0]] * 4,
            "distances": [0.75, 0.75, 0.75, 0.75],
            "centre": [2.5, 2.5],
            "stride": 8.0,
            "box": [1.75, 1.75, 3.25, 3.25],
        },
        "candidates": [[10, 0.8, 0.9, 0.4], [6, 0.7, 0.64, 0.05], [7, 0.2, 0.5, 0.004], [9, 0.1, 0.2, 0.0]],
        "conflict": {
            "step": 0,
            "anchors": [{"anchor": 6, "overlaps": [[0, 0.41], [1, 0.64]], "owner": 1}],
            "counts": [[0, 1], [6, 0]],
        },
        "loss": {
            "truths": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
            "background": [0.0, 0.7, 0.0],
            "score_sum": 3.73,
        },
        "moments": [
            {"step": 0, "steps": 7, "overlap": 0.2, "score": 0.01, "positives": [[5, 0, 0.3], [6, 0, 0.2]]},
            {"step": 6, "steps": 7, "overlap": 0.5, "score": 0.4, "positives": [[5, 0, 0.8], [6, 1, 0.7]]},
        ],
        "static": {
            "ratio": 4.0,
            "boxes": [{"stride": 8, "sides": [[10, 13], [16, 30], [33, 23]]}],
            "cells": [[0, 0, 1, 1, 2], [0, 0, 0, 1, 2], [1, 0, 2, 2, 3]],
        },
    }
    return told | fields


def scope(**fields: Any) -> dict[str, Any]:
    line = {"implementation": "article", "device": "cpu", "scope": "pairs on cells, k 2", "images": 5488}
    line |= {"description": "5,488 images of 16x16 px", "conforms": True, "tie": 1236, "near_tie": 512}
    return line | {"alone": 3, "milliseconds": 410} | fields


def power(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the log line of a planted fault: equivalent if `number` ends in 8, surviving if `number` ends in 9."""
    stage = list(CLAUSES)[number % len(CLAUSES)]
    line = {
        "profile": "ci",
        "fault": f"fault_{number}",
        "clauses": [CLAUSES[stage]],
        "mode": "stages shown",
        "test": "test_metric",
        "expected": [stage],
        "stage": stage,
        "batches": 1 + number % 7,
        "result": "killed",
        "argument": "",
    }
    if number % 10 == 9:
        line |= {"stage": None, "batches": None, "result": "survived"}
    if number % 10 == 8:
        line |= {"stage": None, "batches": None, "result": "equivalent", "argument": "its output is the same"}
    return line | fields


Lines = list[tuple[str, dict[str, Any]]]


def passing(batches: int = 90) -> Lines:
    """Return the log lines of a run in which every implementation conforms."""
    names = ["ultralytics", "article"]
    named = [implementation(), implementation("article", dialect="article", version="1.0")]
    return [
        ("run", run_line(named)),
        *(("batch", batch(number // 2, names[number % 2])) for number in range(batches)),
        ("difference", difference()),
        ("difference", difference(stage="conflict", summary="a third ground truth cannot win an anchor")),
        ("training", training()),
        ("synchronisations", synchronisations()),
        ("scope", scope()),
        *(("benchmark", benchmark(kind, name, ratio)) for kind in ("assign forward", "loss backward")
          for name, ratio in (("reference", 0.62), ("ultralytics", 1.0), ("article", 1.7))),
        ("end", {"exit": 0}),
    ]  # fmt: skip


def planting(faults: int = 20) -> Lines:
    """Return the log lines of a run with planted faults and without implementations."""
    begun = run_line() | {"implementations": []}
    return [("run", begun), *(("power", power(number)) for number in range(faults)), ("end", {"exit": 0})]


def failing(divergences: int = 1, batches: int = 90) -> Lines:
    """Return the log lines of a run in which two implementations fail, with the given number of divergences."""
    lines = passing(batches)
    lines[0][1]["implementations"].append(
        implementation("my-assigner", version="1.0", capabilities=["assign"])
    )
    lines[0][1]["implementations"].append(implementation("broken", version="0.3", capabilities=["assign"]))
    found: Lines = []
    stages = list(CLAUSES)
    for number in range(divergences):
        if number % 7 == 3:
            found.append(
                ("divergence", error(number, summary=f"raised IndexError: at place {chr(97 + number % 26)}"))
            )
            found.append(("batch", batch(number, "broken", verdict="error", stages={})))
            continue
        stage = stages[(5 + number) % len(stages)] if divergences > 1 else "conflict"
        words = "" if number < len(stages) else f", as {chr(97 + number % 26)}{chr(97 + number // 26)}"
        summary = f"an anchor goes to a ground truth that it does not overlap most{words}"
        found.append(("divergence", divergence(number, stage=stage, summary=summary)))
        failed = batch(number, "my-assigner", verdict="divergent", stage=stage, clause=CLAUSES[stage])
        found.append(("batch", failed))
    found += [("batch", batch(number, "my-assigner")) for number in range(batches // 3)]
    return [*lines[:-1], *found, ("end", {"exit": int(divergences > 0)})]


def write(folder: Path, lines: Lines) -> Path:
    """Write log lines into the folder of a run, and return the path of the folder."""
    with RunLog.create(folder.parent, folder.name) as log:
        for kind, fields in lines:
            log.append(kind, **fields)
    return folder


def write_raw(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_bytes(content)
    return folder


def raw(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def line(kind: str, fields: dict[str, Any], time: str = "2025-11-24T02:10:33.000+00:00") -> dict[str, Any]:
    """Return a line of the run log as a dictionary, as `RunLog` would write it for these fields."""
    run = {"schema": 4, "run": "synthetic"} if kind == "run" else {}
    return {"kind": kind, "time": time, **run, **fields}
