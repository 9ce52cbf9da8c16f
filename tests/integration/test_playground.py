"""The playground of the documentation in a real browser: dragging, settings and words follow its assigner."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.common.chromium import chromium

from tal_reference import DIALECTS

PAGE = Path(__file__).parents[2] / "docs" / "playground" / "index.html"
Open = Callable[..., Any]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def playground(browser: Any) -> Iterator[Open]:
    """Open the page in a window; at the end, no script has failed and nothing was requested from elsewhere."""
    complaints: list[str] = []
    requested: list[str] = []
    pages: list[Any] = []

    def opened(width: int = 1300, height: int = 1000, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(PAGE.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requested), requested


def count(page: Any, stage: str) -> str:
    """Return the sentence of numbers above the picture of a stage."""
    return str(page.locator(f"#stage-{stage} .count").inner_text())


def choose(page: Any, setting: str, value: float | str) -> None:
    page.evaluate(
        "([id, value]) => { const input = document.getElementById(id); input.value = value;"
        " input.dispatchEvent(new Event('input', {bubbles: true})); }",
        [setting, value],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 820, 360])
def test_it_fits_every_screen(playground: Open, width: int, scheme: str):
    page = playground(width, 900, scheme)
    page.locator('#editor [data-anchor="70"]').dispatch_event("pointerdown")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#stages article").count() == 6
    assert page.locator("#stages article .clause").all_inner_texts()[0].startswith("TAL-CAND-1")


def test_dragging_a_ground_truth_moves_every_stage(playground: Open):
    page = playground()
    before, weights = count(page, "candidates"), count(page, "weights")
    box = page.locator('[data-key="truth0"]').bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] - 40, box["y"] - 40, steps=4)
    page.mouse.up()
    moved = page.locator('[data-key="truth0"]').bounding_box()
    assert moved["x"] == pytest.approx(box["x"] - 70, abs=6)
    assert page.evaluate("state.truths[0].box")[0] < 18
    assert (count(page, "candidates"), count(page, "weights")) != (before, weights)


def test_a_corner_resizes_a_ground_truth(playground: Open):
    page = playground()
    corner = page.locator("#editor .handle").nth(3).bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y)
    page.mouse.up()
    x1, y1, x2, y2 = page.evaluate("state.truths[0].box")
    assert (x1, y1, y2) == (18, 14, 58)
    assert x2 > 70


def test_keys_move_and_resize(playground: Open):
    page = playground()
    page.locator('[data-key="truth1"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert page.evaluate("state.truths[1].box") == [45, 40, 89, 85]
    assert page.evaluate("document.activeElement.getAttribute('data-key')") == "truth1"


def test_k_is_the_number_of_selected_anchors(playground: Open):
    page = playground()
    for k in (1, 4, 17):
        choose(page, "topk", k)
        assert count(page, "selected") == f"{k} selected"
    choose(page, "topk", 10)
    choose(page, "topk2", 3)
    assert "3 + 3 positives" in count(page, "positives")


def test_exponents_change_the_metric(playground: Open):
    page = playground()
    before = count(page, "metric")
    choose(page, "alpha", 0)
    choose(page, "beta", 0)
    assert (before, count(page, "metric")) == (before, "largest t: 1.000")


def test_a_tiny_box_has_candidates_where_the_release_has_a_floor(playground: Open):
    page = playground()
    page.get_by_role("button", name="tiny box").click()
    numbers = {}
    for dialect in page.evaluate("Object.keys(TAL.DIALECTS)"):
        choose(page, "dialect", dialect)
        numbers[dialect] = int(count(page, "candidates").split()[0])
        has_floor = page.locator("#stage-candidates .floor").count() == 1
        assert has_floor == (dialect not in ("ultralytics-8.3.253", "ultralytics-8.0.51"))
        assert dialect in DIALECTS
    assert numbers["ultralytics-8.4.190"] > numbers["ultralytics-8.3.253"]


def test_an_anchor_that_is_picked_is_explained_and_its_box_can_be_dragged(playground: Open):
    page = playground()
    page.get_by_role("button", name="contested").click()
    assert not count(page, "positives").startswith("0 ")
    anchor = page.evaluate("compute().targets.findIndex((target) => target.foreground)")
    page.locator(f'#editor [data-anchor="{anchor}"]').dispatch_event("pointerdown")
    assert "learns ground truth" in page.locator("#why h2").inner_text()
    rows = page.locator("#why tr th:first-child").all_inner_texts()
    assert rows == [
        "ground truth", "candidate", "score s", "IoU", "− distance", "− shape", "overlap u", "metric t", "selected",
        "positive",
    ]  # fmt: skip
    page.locator('[data-key="box"]').focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert "is background" in page.locator("#why h2").inner_text()
    page.get_by_role("button", name="reset predictions").click()
    assert "learns ground truth" in page.locator("#why h2").inner_text()


def test_ground_truths_come_and_go(playground: Open):
    page = playground()
    for _ in range(2):
        page.get_by_role("button", name="remove").click()
    assert "TAL-EMPTY-1" in count(page, "weights")
    page.get_by_role("button", name="add ground truth").click()
    assert count(page, "candidates").endswith("candidates of 189 anchors")
    page.get_by_role("button", name="change class").click()
    assert "dog" in page.locator("#truths button").first.inner_text()


def test_what_is_drawn_is_what_the_reference_computes(playground: Open):
    """Positives and weights of every example agree with the reference in every dialect of the page."""
    import torch

    from tal_reference import GroundTruths, Hyperparameters, assign, parse

    page = playground()
    for example in page.evaluate("Object.keys(EXAMPLES)"):
        page.get_by_role("button", name=example).click()
        for dialect in page.evaluate("Object.keys(TAL.DIALECTS)"):
            choose(page, "dialect", dialect)
            shown = page.evaluate("compute()")
            image = shown["image"]
            scores, boxes, anchors, corners = (
                torch.tensor(image[name], dtype=torch.float64)
                for name in ("scores", "boxes", "anchors", "truths")
            )
            truths = GroundTruths(torch.tensor(image["labels"]), corners)
            numbers = Hyperparameters()
            targets = assign(scores, boxes, anchors, truths, (8, 16, 32), numbers, parse(dialect))
            assert [target["foreground"] for target in shown["targets"]] == targets.foreground.tolist()
            weights = torch.tensor([target["weight"] for target in shown["targets"]], dtype=torch.float64)
            torch.testing.assert_close(weights, targets.weights)
