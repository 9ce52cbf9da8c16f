"""Why an anchor got its ground truth or none: `python -m conformance explain CASE --image 0 --anchor 17`.

Here are the numbers behind it, plain and rounded to six digits, as they go into a picture of the run log; the words
are `tal_reports.html.explanations`', the same for the terminal and for the report.
"""

import sys
from pathlib import Path

from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.files import REPOSITORY
from tal_conformance.core.outcome import Assignment
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.execute import ImplementationFailed, execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.pictures.trace import ImageTrace
from tal_reference import (
    DIALECTS,
    NEWEST,
    Dialect,
)
from tal_reports import anchor_lines, truth_lines, visible

RUNS = ("reports/runs", "tal-conformance-reports")
"""Where runs are left, and a case is sought by its name."""


class CannotExplain(Exception):
    """There is nothing to explain; the message says what is missing."""


def explain_case(
    case: str,
    image: int = 0,
    anchor: int | None = None,
    truth: int | None = None,
    dialect: str | None = None,
    implementation: str | None = None,
) -> int:
    """Print why an anchor or a ground truth of a case got what it got.

    Args:
        case: path of a case file, or the name of one in a run's folder.
        image: which image of the batch.
        anchor: which anchor; levels one after the other, each row by row.
        truth: or which ground truth.
        dialect: whose choices to follow; by default the implementation's, or the newest.
        implementation: whose assignment to tell beside the reference's.

    Returns:
        0, or 2 if there is nothing to explain.
    """
    try:
        print("\n".join(visible(line) for line in lines(case, image, anchor, truth, dialect, implementation)))
    except CannotExplain as error:
        print(f"python -m conformance explain: {visible(str(error))}", file=sys.stderr)
        return 2
    return 0


def lines(
    case: str,
    image: int = 0,
    anchor: int | None = None,
    truth: int | None = None,
    dialect: str | None = None,
    implementation: str | None = None,
) -> list[str]:
    """What `explain` prints.

    Raises:
        CannotExplain: no such case, image, anchor, ground truth, dialect or implementation.
    """
    path = case_file(case)
    try:
        batch = Batch.load(path)
    except (InvalidCase, OSError) as error:
        raise CannotExplain(str(error)) from error
    found = _found(implementation)
    held_to = _dialect(dialect) or (found.dialect if found else NEWEST)
    if not 0 <= image < batch.images:
        raise CannotExplain(f"the batch has {batch.images} images, from 0; there is no image {image}")
    try:
        explained = ImageTrace.of(batch, image, held_to)
    except ValueError as error:
        raise CannotExplain(f"the reference cannot assign this batch: {error}") from error
    about = f"{path.name}: {batch.describe()}", f"By the reference, dialect {held_to.name}:"
    assignment = None if found is None else _assignment(found, batch)
    return [*about, "", *_told(explained, anchor, truth, assignment)]


def _told(
    explained: ImageTrace, anchor: int | None, truth: int | None, assignment: Assignment | None
) -> list[str]:
    from tal_conformance.pictures.picture import drawn  # which needs this module's numbers

    count = len(explained.truths)
    if truth is not None:
        if not 0 <= truth < count:
            raise CannotExplain(
                f"image {explained.image} has {count} ground truths, from 0; there is no GT {truth}"
            )
        return truth_lines(drawn(explained, assignment, explained.of_truth(truth)), truth)
    if anchor is None:
        picture = drawn(explained, assignment, explained.telling([]))
        told = [truth_lines(picture, number) for number in range(count)]
        return [line for part in told for line in (*part, "")] or [
            "The image has no ground truth: all is background."
        ]
    if not 0 <= anchor < explained.anchors:
        raise CannotExplain(f"the batch has {explained.anchors} anchors, from 0; there is no anchor {anchor}")
    return anchor_lines(drawn(explained, assignment, [anchor]), anchor)


def _found(name: str | None) -> Implementation | None:
    try:
        return None if name is None else find(name)
    except (UnknownImplementation, ProtocolViolation) as error:
        raise CannotExplain(str(error)) from error


def _assignment(implementation: Implementation, batch: Batch) -> Assignment:
    try:
        assignment = execute(implementation, batch).assignment
    except ImplementationFailed as error:
        raise CannotExplain(f"{implementation.name} failed on this batch: {error.what}") from error
    if assignment is None:
        raise CannotExplain(f"{implementation.name} shows no assignment")
    return assignment


def _dialect(name: str | None) -> Dialect | None:
    if name is not None and name not in DIALECTS:
        raise CannotExplain(f"there is no dialect {name!r}; known are {', '.join(DIALECTS)}")
    return DIALECTS[name] if name is not None else None


def case_file(case: str) -> Path:
    """The file of a case: a path, or the name of a case in the folder of some run, the newest first.

    Raises:
        CannotExplain: there is none.
    """
    path = Path(case)
    if path.suffix or path.is_file():
        return path
    parents = [REPOSITORY / RUNS[0], *(Path(folder) for folder in RUNS)]
    for parent in parents:
        found = sorted(parent.glob(f"*/cases/{path.name}.safetensors"), reverse=True)
        if found:
            return found[0]
    raise CannotExplain(f"{case} is no file, and no run in {', '.join(RUNS)} has a case of this name")
