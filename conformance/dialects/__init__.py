"""Dialects compared: what changed between two of them, at which release, and which one an implementation speaks."""

from conformance.dialects.bisect import bisect
from conformance.dialects.choices import Choice, choices_between
from conformance.dialects.diff import diff
from conformance.dialects.identify import identify

__all__ = ["Choice", "bisect", "choices_between", "diff", "identify"]
