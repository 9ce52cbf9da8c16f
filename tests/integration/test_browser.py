"""The report in a real browser without network access."""

from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import DESKTOP, PHONE, Open

pytestmark = pytest.mark.browser


def cards(page: Any) -> list[str]:
    """Return the headings of the visible cards of a page."""
    return page.locator("details.card > summary h3").filter(visible=True).all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["none", "one", "many", "hostile", "awkward", "nothing", "differences"])
def test_nothing_is_wider_than_the_screen(open_page: Open, name: str, size: tuple[int, int], scheme: str):
    with open_page(name, size=size, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        outside = page.evaluate(
            """() => [...document.querySelectorAll('body *')].filter(one => {
                const box = one.getBoundingClientRect();
                const clipped = one.closest('.wide, pre, svg, .skip');
                return box.width && !clipped && (box.right > innerWidth + 1 || box.left < -1);
            }).map(one => one.outerHTML.slice(0, 120))"""
        )
        assert outside == []


def test_a_name_has_room_beside_what_a_pass_is_worth(open_page: Open):
    with open_page("worth", size=PHONE) as page:
        assert page.locator(".who td:last-child .see").first.is_visible()
        assert page.locator(".who tbody th").first.bounding_box()["width"] >= PHONE[0] / 3


def test_without_scripts_everything_is_readable(open_page: Open):
    with open_page("one", java_script_enabled=False) as page:
        said = page.locator("body").inner_text()
        for words in (
            "my-assigner diverges",
            "cuda not tested: no such device",
            "an anchor goes to a ground truth that it does not overlap most",
            "0.41230482",
            "pytest conformance --implementation my.py:A",
            "Implementations by clause group",
            "0.62×",
        ):
            assert words in said
        assert not page.locator(".filter").is_visible()
        assert not page.get_by_role("button").filter(visible=True).count()
        assert page.locator("svg .m.missing").first.is_visible()
        closed = page.locator("#differences details.card").first
        closed.locator("summary").first.click()
        assert "is not widened" in closed.inner_text()
        page.locator(".views label", has_text="Reference").first.click()
        assert page.locator("svg .m.extra").first.is_hidden()


def test_each_picture_of_differences_is_switched_by_itself(open_page: Open):
    with open_page("differences", java_script_enabled=False) as page:
        first, second = page.locator(".picture").all()[:2]
        first.locator("label", has_text="Before").click()
        assert first.locator("svg .m.extra").is_hidden()
        assert first.locator("svg .m.missing").is_visible()
        assert second.locator("svg .m.extra").is_visible()
        assert second.get_by_role("radio", name="Difference").is_checked()


def test_three_views_of_a_picture(open_page: Open):
    with open_page("one") as page:
        picture = page.locator(".picture").first

        def seen() -> dict[str, list[str]]:
            kinds = ("missing", "extra", "owner", "weight", "same")
            marks = {kind: picture.locator(f"svg .m.{kind}").filter(visible=True) for kind in kinds}
            return {
                kind: mark.locator("text").filter(visible=True).all_text_contents()
                for kind, mark in marks.items()
                if mark.count()
            }

        assert seen() == {"missing": ["−"], "extra": ["+"], "owner": ["≠"], "weight": ["w"], "same": []}
        difference = picture.get_by_role("radio", name="Difference")
        assert difference.is_checked()
        difference.focus()
        page.keyboard.press("ArrowRight")
        assert picture.get_by_role("radio", name="Reference").is_checked()
        assert seen() == {"missing": ["1"], "owner": ["1"], "weight": ["0"], "same": ["0", "0", "1"]}
        page.keyboard.press("ArrowRight")
        assert seen() == {"extra": ["1"], "owner": ["0"], "weight": ["0"], "same": ["0", "0", "1"]}
        assert picture.locator("svg .m.focus").is_visible()
        assert "with the number of its ground truth" in picture.locator("figcaption").inner_text()


def here(page: Any) -> str:
    return page.locator(".picture .now").first.inner_text()


def test_pointing_at_an_anchor_explains_its_assignment(open_page: Open):
    with open_page("one") as page:
        picture = page.locator(".picture").first
        assert "Anchor 6" in here(page)  # the ringed anchor is explained at once
        assert picture.locator("svg .here").get_attribute("cx") == "20"
        picture.locator('.spots circle[data-a="5"]').hover()
        assert "Anchor 5" in here(page)
        picture.locator('.spots circle[data-a="6"]').hover()
        assert "GT 1 overlaps it most, u 0.64, 0.23 more than GT 0, and wins (TAL-CONF-1)." in here(page)
        assert "The implementation differs: GT 0 with weight 0.7." in here(page)
        assert picture.locator("svg .here").get_attribute("visibility") == "visible"
        assert picture.locator("svg .predicted").get_attribute("width") == "20.5"
        picture.locator('.spots circle[data-a="15"]').hover()
        assert "the nearest is GT 1, 1.5 px away" in here(page)


def test_an_anchor_that_is_clicked_stays(open_page: Open):
    with open_page("one") as page:
        spots = page.locator(".picture").first.locator(".spots circle")
        page.locator('.picture .spots circle[data-a="6"]').first.click()
        spots.locator("xpath=self::*[@data-a='15']").hover()
        assert "Anchor 15" in here(page)
        page.locator("h1").hover()
        assert "Anchor 6" in here(page)


def test_arrow_keys_walk_through_the_anchors(open_page: Open):
    with open_page("one") as page:
        page.locator(".picture svg").first.focus()
        said = []
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)
            said.append(here(page).split()[1])
        assert said == ["15", "5", "6", "15", "6"]  # from the ringed anchor 6
        page.locator(".picture svg").first.evaluate("one => one.blur()")
    with open_page("one") as page:
        page.locator(".picture svg").first.focus()
        page.keyboard.press("ArrowUp")
        assert here(page).split()[1] == "5"


def test_the_same_words_are_there_without_scripts(open_page: Open):
    with open_page("one", java_script_enabled=False) as page:
        page.locator(".why summary").first.click()
        words = page.locator(".why").first.inner_text()
        assert "Reasons for the assignment of 3 anchors" in words
        assert "GT 1 overlaps it most, u 0.64, 0.23 more than GT 0, and wins (TAL-CONF-1)." in words
        assert not page.locator(".now").count()
        title = page.locator('.spots circle[data-a="6"] title').first.text_content()
        assert (
            "reference GT 1 weight 0.7, implementation GT 0 weight 0.7. GT 1: s 0.7, u 0.64, t 0.05" in title
        )


def test_a_card_that_is_opened_later_has_its_viewer_too(open_page: Open):
    with open_page("many") as page:
        card = page.locator("details.card:has(.why)").nth(3)
        assert not card.locator(".now").count()
        card.locator("summary").first.click()
        card.locator(".spots circle").first.hover()
        assert "Anchor 5" in card.locator(".now").inner_text()


def test_a_link_to_a_case_filters(open_page: Open):
    with open_page("many", "#case:0000c0ffee00") as page:
        assert len(cards(page)) == 1
        assert page.locator("details.card:not([hidden])[open]").count() == 1


def test_a_fragment_filters(open_page: Open):
    with open_page("many", "#filter=impl:my-assigner%20stage:conflict") as page:
        shown = cards(page)
        assert len(shown) == 1
        assert all("my-assigner first at conflict" in one for one in shown)
        assert page.locator("#shown").inner_text() == "1 of 24 shown"
        assert page.locator("#filter").input_value() == "impl:my-assigner stage:conflict"


def test_typed_words_filter(open_page: Open):
    with open_page("many") as page:
        for query, count in (
            ("impl:my-assigner", 13),
            ("impl:broken", 9),
            ("impl:BROKEN", 9),
            ("impl:bro", 9),
            ("impl:broken impl:article", 11),
            ("impl:broken verdict:divergent", 0),
            ("verdict:declared", 2),
            ("stage:conflict stage:overlap verdict:divergent", 2),
            ("clause:TAL-CONF-1 impl:my-assigner", 1),
            ("clause:TAL-CONF impl:my-assigner", 13),
            ("case:0000c0ffee00", 1),
            ("does overlap 'as na'", 0),
            ('"most, as na"', 1),
            ("overlap most, as na", 1),
            ("unknown:token", 0),
            ("", 24),
        ):
            page.locator("#filter").fill(query)
            assert len(cards(page)) == count, query


def test_the_address_has_the_typed_filter(open_page: Open):
    query = 'impl:broken "raised IndexError" 100% & more=#?'
    with open_page("many") as page:
        page.locator("#filter").fill(query)
        fragment = page.evaluate("location.hash")
    with open_page("many", fragment) as again:
        assert again.locator("#filter").input_value() == query


def test_clearing_the_filter_clears_the_address(open_page: Open):
    with open_page("many", "#filter=impl:broken") as page:
        page.locator("#filter").fill("")
        assert "#" not in page.evaluate("location.href")
        assert len(cards(page)) == 24


@pytest.mark.parametrize(
    "fragment", ["#filter=%E0%A4%A", "#filter=%22", "#filter=(", "#nowhere", "#%", "#filter="]
)
def test_an_invalid_fragment_is_ignored(open_page: Open, fragment: str):
    with open_page("many", fragment) as page:
        assert page.locator("h1").is_visible()


def test_names_with_spaces_quotes_and_backslashes_are_found(open_page: Open):
    with open_page("awkward") as page:
        page.locator("a.see").click()
        assert len(cards(page)) == 4
        page.locator(".counts-by-stage a").first.click()
        for _ in range(100):  # the page changes a moment after the address
            if len(cards(page)) == 1:
                break
            page.wait_for_timeout(50)
        assert len(cards(page)) == 1


def test_the_matrix_leads_to_the_cards(open_page: Open):
    with open_page("one") as page:
        page.get_by_role("link", name="1 cause, at conflict").click()
        (shown,) = cards(page)
        assert "my-assigner first at conflict" in shown
        assert (
            page.locator("#disagreements").evaluate("one => Math.abs(one.getBoundingClientRect().top)") < 50
        )


def test_a_link_to_a_card_opens_it(open_page: Open, reports: dict[str, Path]):
    with open_page("many") as page:
        identity = page.locator("details.card").nth(20).get_attribute("id")
    with open_page("many", f"#{identity}") as page:
        card = page.locator(f"#{identity}")
        assert card.get_attribute("open") is not None
        assert -50 < card.evaluate("one => one.getBoundingClientRect().top") < 900


def test_all_can_be_opened_and_closed(open_page: Open):
    with open_page("many") as page:
        button = page.locator("#open-all")
        button.click()
        assert page.locator("details.card:not([open])").count() == 0
        button.click()
        assert page.locator("details.card[open]").count() == 0


def test_copy_buttons_copy_the_text_beside_them(open_page: Open):
    with open_page("one", permissions=["clipboard-read", "clipboard-write"]) as page:
        button = page.get_by_role("button", name="Copy the Python code").first
        button.click()
        page.wait_for_function(
            "document.querySelector('[aria-label=\"Copy the Python code\"]').textContent === 'Copied'"
        )
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == (
            'from conformance import check\n\ncheck("my.py:A", "runs/1/cases/0000c0ffee00.safetensors")'
        )


def test_without_permission_to_copy_the_text_is_selected(open_page: Open):
    with open_page("one") as page:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
        page.get_by_role("button", name="Copy the pytest code").first.click()
        page.wait_for_function("getSelection().toString().startsWith('pytest conformance')")
