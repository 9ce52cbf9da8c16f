"""Recorded batches on disk, within a size limit; the least interesting batch is removed first."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tal_conformance.core import case_file
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.training.selection import EVERY, FAILURES, FIRST, RECORDS, RESUMED

SUFFIX = ".safetensors"
HEADER = 4096
"""Maximum size in bytes of the header of a case file."""

Reason = tuple[int, str]
"""A reason to store a batch: the index of the loss (an end-to-end head has two), and the reason itself."""


@dataclass
class StoredCase:
    """A stored case file.

    Attributes:
        path: path of the file.
        size: size in bytes.
        step: number of the training step.
        reasons: reasons to store the batch. A reason that is a record, such as the largest loss so far, is removed when
            a later batch exceeds the record.
    """

    path: Path
    size: int
    step: int
    reasons: set[Reason]

    @property
    def rank(self) -> int:
        """Priority of the file, from 0 to 3.

        It is 3 for the first batch, also after resuming, and for batches on which the loss raised or was not finite;
        2 for the batch before those, a record, other anomalies, or the first batch without ground truths; 1 for a
        regularly stored batch, and 0 for an exceeded record.
        """
        ranks = {FIRST: 3, RESUMED: 3, **dict.fromkeys(FAILURES, 3), EVERY: 1}
        return max((ranks.get(name, 2) for _, name in self.reasons), default=0)


@dataclass
class CaseStore:
    """A folder of recorded batches with a size limit.

    Attributes:
        folder: path of the folder.
        limit: size limit of all files, in bytes.
        cases: the stored files, in the order of training steps.
    """

    folder: Path
    limit: int
    cases: list[StoredCase] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Size of all files, in bytes."""
        return sum(case.size for case in self.cases)

    def add(
        self,
        batch: Batch | Content,
        step: int,
        reasons: set[Reason],
        circumstances: Circumstances | None = None,
    ) -> bool:
        """Store a batch; if the size limit requires it, remove less interesting batches.

        Args:
            batch: the batch, or inputs that need not be valid.
            step: number of the training step.
            reasons: reasons to store it.
            circumstances: circumstances of the call of the loss.

        Returns:
            True if the batch was stored; False if less interesting batches could not free enough space.

        Raises:
            OSError: the file cannot be written.
        """
        beaten = {reason for reason in reasons if reason[1] in RECORDS}
        for case in self.cases:
            case.reasons -= beaten
        content = Content(*(getattr(batch, name) for name in Content._fields))
        name = f"step-{step:06d}-{content_id(content)}{SUFFIX}"
        new = StoredCase(self.folder / name, _bytes(content), step, reasons)
        if not self._make_room(new):
            return False
        case_file.write(new.path, content, circumstances)
        new.size = new.path.stat().st_size
        self.cases.append(new)
        self.cases.sort(key=lambda case: case.step)  # the batch before one that went wrong is stored after it
        return True

    def _make_room(self, new: StoredCase) -> bool:
        """Remove less or equally interesting files until `new` fits; if that is impossible, only return False."""
        removed: list[StoredCase] = []
        while self.size - sum(case.size for case in removed) + new.size > self.limit:
            remaining = [case for case in self.cases if case not in removed]
            least = self._least(remaining, new.rank)
            if least is None:
                return False
            removed.append(least)
        for case in removed:
            case.path.unlink(missing_ok=True)
            self.cases.remove(case)
        return True

    @staticmethod
    def _least(among: list[StoredCase], rank: int) -> StoredCase | None:
        """Return the least interesting file whose rank is at most `rank`, or None.

        Among files of the same rank, this is the file with the fewest steps since the previous file of that rank.
        """
        lowest = min((case.rank for case in among), default=rank + 1)
        if lowest > rank or lowest == 3:
            return None
        equals = [case for case in among if case.rank == lowest]
        gaps = [after.step - before.step for before, after in pairwise(equals)]
        return equals[gaps.index(min(gaps)) + 1] if gaps else equals[0]


def content_id(content: Content) -> str:
    """Return the id of a batch, or an id of the same form for inputs that are not a valid batch."""
    try:
        return Batch(*content).id
    except ValueError:
        tensors = case_file.batch_tensors(content.feature_maps, content.annotations, content.extras)
        return case_file.digest(case_file.head_as_dict(content.head), tensors)[:12]


def _bytes(content: Content) -> int:
    extras = sum(tensor.nbytes for tensor in content.extras.values())
    return HEADER + content.annotations.nbytes + extras + sum(level.nbytes for level in content.feature_maps)
