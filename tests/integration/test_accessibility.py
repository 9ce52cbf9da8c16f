"""The report in a real browser: contrast, names and roles, the keyboard, and the rules of axe."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
from tests.integration.conftest import DESKTOP, PHONE, Open

pytestmark = pytest.mark.browser

CONTRAST = """() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith('color(') ? 1 : 255;
    return [...numbers.slice(0, 3).map((n) => n / scale), numbers[3] ?? 1];
  };
  const over = ([r, g, b, a], back) => [r, g, b].map((c, i) => c * a + back[i] * (1 - a));
  const behind = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((back, layer) => over(layer, back), [1, 1, 1]);
  };
  const light = (c) => c.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || one.closest('svg, script') || !one.checkVisibility()) continue;
    const back = behind(one);
    const value = ratio(over(parse(getComputedStyle(one).color), back), back);
    if (value < 4.5) found.push([value.toFixed(2), one.className, walk.currentNode.data.trim().slice(0, 40)]);
  }
  const disc = document.createElement('i');
  document.body.append(disc);
  const named = (name) => {
    disc.style.color = `var(--${name})`;
    return parse(getComputedStyle(disc).color).slice(0, 3);
  };
  const names = [...Array(8).keys()].map((n) => `gt${n}`).concat(['divergent', 'known']);
  for (const name of names) {
    const value = ratio(named(name), named('card'));
    if (value < 4.5) found.push([value.toFixed(2), name, 'glyphs and names in pictures']);
  }
  disc.remove();
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["none", "one", "hostile"])
def test_every_text_contrasts_with_what_is_behind_it(open_page: Open, name: str, scheme: str):
    with open_page(name, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert page.evaluate(CONTRAST) == []


def test_the_measure_of_contrast_can_fail(open_page: Open):
    with open_page("one") as page:
        page.evaluate("document.querySelector('h1').style.color = '#c0c0c0'")
        assert [found[2] for found in page.evaluate(CONTRAST)] == ["my-assigner diverges"]


@pytest.mark.parametrize("name", ["none", "one", "hostile"])
def test_elements_have_names_and_roles(open_page: Open, name: str):
    with open_page(name) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        levels = page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(one => Number(one.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        for role in ("button", "link", "radio", "searchbox", "region", "img"):
            for one in page.get_by_role(role).all():
                name_of = (
                    "one => one.getAttribute('aria-label') ?? one.labels?.[0]?.textContent ?? one.textContent"
                )
                assert one.evaluate(name_of).strip(), (role, one.evaluate("one => one.outerHTML"))
        assert page.evaluate("document.documentElement.lang") == "en"
        scrolled = page.evaluate(
            """[...document.querySelectorAll('.wide, pre')].filter(one => one.scrollWidth > one.clientWidth)
            .filter(one => one.tabIndex < 0).length"""
        )
        assert scrolled == 0


def test_the_keyboard_reaches_every_control_with_a_visible_focus(open_page: Open):
    with open_page("one") as page:
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    """() => {
                        const one = document.activeElement;
                        const style = getComputedStyle(one.matches('.views input') ? one.nextSibling : one);
                        return [one.tagName, one.className || one.id, style.outlineStyle !== 'none'];
                    }"""
                )
            )
        assert all(outlined for tag, _, outlined in reached if tag != "BODY")
        tags = {tag for tag, _, _ in reached}
        assert {"A", "SUMMARY", "INPUT", "PRE", "BUTTON"} <= tags
        assert reached[0][1] == "skip"


AXE = """async (rules) => {
  const found = await axe.run(document, { runOnly: rules, resultTypes: ["violations"] });
  const nodes = (one) => one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160));
  return found.violations.map((one) => [one.id, one.help, nodes(one)]);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the JavaScript source of axe-core, which checks accessibility; skip the test without it."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        assert os.environ.get("TAL_REQUIRE_BROWSER") != "1", "axe-playwright-python is not installed"
        pytest.skip("axe-playwright-python is not installed (pip install -e '.[dev]')")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["none", "one", "hostile"])
def test_axe_finds_nothing(open_page: Open, axe: str, name: str, size: tuple[int, int], scheme: str):
    with open_page(name, size=size, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        page.evaluate(f"{axe}; null")
        assert (
            page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"])
            == []
        )


def test_axe_can_find_something(open_page: Open, axe: str):
    with open_page("one") as page:
        page.evaluate("document.documentElement.removeAttribute('lang')")
        page.evaluate(f"{axe}; null")
        assert [found[0] for found in page.evaluate(AXE, ["wcag2a"])] == ["html-has-lang"]
