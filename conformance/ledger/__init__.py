"""The ledger: divergences on record that are no dialect, each with reason, owner and a day on which it expires."""

from conformance.ledger.entries import BUNDLED, CorruptLedger, Entry, read_ledger
from conformance.ledger.standing import Standing, standings

__all__ = ["BUNDLED", "CorruptLedger", "Entry", "Standing", "read_ledger", "standings"]
