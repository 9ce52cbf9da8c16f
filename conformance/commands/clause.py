"""`tal-conformance clause TAL-CAND-2`: print a clause of the specification, and how dialects differ in it.

A dialect is the behaviour of a range of releases. It consists of choices, such as CIoU instead of IoU as the overlap.
"""

import argparse
from typing import Any

from tal_conformance.commands.program import CommandError
from tal_conformance.commands.results import set_result
from tal_conformance.core.clauses import clauses, names_like
from tal_conformance.core.names import suggestion
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Print every clause that the arguments name, and return 0.

    Raises:
        CommandError: a clause is unknown.
    """
    entries = []
    for name in options.clauses:
        known = clauses()
        found = [name.upper()] if name.upper() in known else names_like(name, known)
        if not found:
            raise CommandError(
                f"unknown clause {name!r}{suggestion(name, known) or '.'} Groups of clauses: "
                f"{', '.join(dict.fromkeys(clause.split('-')[0] for clause in known))}"
            )
        say(*(line for clause in found for line in format_clause(clause)))
        entries += [clause_fields(clause) for clause in found]
    set_result(clauses=entries)
    return 0


def format_clause(clause: str) -> list[str]:
    """Return the lines about a clause: its text, its place in the documentation, the choices of dialects."""
    from tal_reference import CHOICES

    entry = clauses()[clause]
    lines = [f"{clause}: {entry['text']}", f"  docs/{entry['page']}#{clause}"]
    for name, choice in CHOICES.items():
        if choice.clause == clause:
            lines.append(f"  choice {name}:")
            lines += [f"    {value_text(value)}: {words}" for value, words in choice.words.items()]
    return lines


def clause_fields(clause: str) -> dict[str, Any]:
    """Return a clause's id, text and page, and the choices that dialects have in the clause."""
    from tal_reference import CHOICES

    choices = {
        name: {value_text(value): words for value, words in choice.words.items()}
        for name, choice in CHOICES.items()
        if choice.clause == clause
    }
    entry = clauses()[clause]
    return {
        "id": clause,
        "text": entry["text"],
        "page": f"docs/{entry['page']}#{clause}",
        "choices": choices,
    }


def value_text(value: object) -> str:
    """Return a value of a choice in the form of command line options, such as "yes" or "iou"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(getattr(value, "value", value))
