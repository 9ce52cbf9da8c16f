"""HTML reports for tests: a strict parser of their pages, and a run log that is hostile in every field."""

from html.parser import HTMLParser
from pathlib import Path

from tests.common import run_logs as factory
from tests.common.run_logs import HOSTILE, batch, divergence, implementation, run_line

from tal_reports import render

VOID = {"meta", "link", "input", "br", "img", "hr"}
SELF_CLOSED = {"rect", "path", "circle"}


class Document(HTMLParser):
    """Parser of a page's elements, attributes and text; it fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.contents:
            self.contents[self._open[-1]].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str, style: str = "") -> list[dict[str, str]]:
        return [a for name, a in self.elements if name == tag and style in ["", *a.get("class", "").split()]]


def page(folder: Path, lines: factory.Lines) -> tuple[Document, str]:
    text = render(factory.write(folder, lines)).read_text(encoding="utf-8")
    return Document(text), text


def hostile_lines() -> factory.Lines:
    place = {"kind": "transfer", "operation": HOSTILE, "where": HOSTILE * 50, "count": 1}
    everywhere = {"implementation": HOSTILE, "test": HOSTILE, "clause_group": HOSTILE, "device": HOSTILE}
    values = [dict.fromkeys(("where", "quantity", "reference", "implementation", "bound"), HOSTILE)] * 40
    shown = {
        "clause": HOSTILE,
        "summary": HOSTILE * 300,
        "description": HOSTILE,
        "recipe": HOSTILE,
        "values": values,
    }
    shown |= {"hazards": [HOSTILE], "picture": factory.picture(titles={"6": HOSTILE})}
    stages = [{"stage": HOSTILE, "clause": HOSTILE, "state": "diverges", "margin": "inf"}]
    return [
        (
            "run",
            run_line(
                [implementation(HOSTILE, version=HOSTILE, dialect=HOSTILE, capabilities=[HOSTILE])],
                profile=HOSTILE,
                seed=HOSTILE,
                environment={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
                devices={HOSTILE: HOSTILE},
                command=[HOSTILE],
                hazards={HOSTILE: HOSTILE},
                clauses={HOSTILE: HOSTILE},
            ),
        ),
        (
            "batch",
            batch(verdict="exact", **everywhere, dtype=HOSTILE, hazards=[HOSTILE], stages={HOSTILE: "inf"}),
        ),
        ("batch", batch(verdict="error", **everywhere, dtype=HOSTILE, case=HOSTILE)),
        (
            "batch",
            batch(verdict="error", **everywhere | {"clause_group": "lost"}, dtype="a", case=HOSTILE + "x"),
        ),
        (
            "divergence",
            divergence(
                case=HOSTILE, dtype=HOSTILE, **everywhere, **shown, traceback=HOSTILE * 2000, stages=stages
            )
            | {"stage": HOSTILE, "reproduce": dict.fromkeys(("pytest", "python", "example"), HOSTILE)},
        ),
        ("difference", factory.difference(HOSTILE, **shown, dialect=HOSTILE, against=HOSTILE, case=HOSTILE)),
        ("not_tested", {"implementation": HOSTILE, "device": HOSTILE, "reason": HOSTILE}),
        ("training", factory.training(implementation=HOSTILE, summary=HOSTILE, worst="nan", bound="inf")),
        (
            "synchronisations",
            factory.synchronisations(implementation=HOSTILE, device=HOSTILE, places=[place]),
        ),
        ("benchmark", factory.benchmark(HOSTILE, HOSTILE, 0.5)),
    ]
