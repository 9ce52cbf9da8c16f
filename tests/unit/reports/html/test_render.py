"""The HTML report: content, escaping and size."""

import base64
import hashlib
import html
import re
from pathlib import Path

import pytest
from tests.common import run_logs as factory
from tests.common.pages import Document, hostile_lines, page
from tests.common.run_logs import HOSTILE, batch, divergence, error, implementation, run_line

from tal_reports import read_log, render, summarise
from tal_reports.html import cards
from tal_reports.html.cards import DOCS, filter_link, specification_link

RUNS = {
    "all conforms": factory.passing(40),
    "one diverges": factory.failing(1, 40),
    "twenty diverge": factory.failing(20, 40),
    "killed": factory.failing(5, 40)[:-3],
    "hostile": hostile_lines(),
    "nothing": [("run", run_line() | {"implementations": []})],
    "only the run line": [("run", run_line())],
}


@pytest.mark.parametrize("lines", RUNS.values(), ids=RUNS)
def test_the_page_is_well_formed_and_loads_nothing(run_dir: Path, lines: factory.Lines):
    document, text = page(run_dir, lines)
    identities = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for tag, attributes in document.elements:
        assert not {
            name
            for name in attributes
            if name.startswith("on") or name in ("style", "src", "srcset", "action")
        }
        if "href" in attributes:
            assert re.match("#|cases/|data:image/svg", attributes["href"]), (tag, attributes)
        for name in ("for", "aria-describedby"):
            assert attributes.get(name, identities[0]) in identities
    assert len(document.of("script")) == len(document.of("style")) == 1
    assert not {"img", "iframe", "object", "embed", "base", "foreignobject"} & {
        tag for tag, _ in document.elements
    }
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("lines", RUNS.values(), ids=RUNS)
def test_the_policy_allows_only_the_page_s_own_style_and_script(run_dir: Path, lines: factory.Lines):
    document, _ = page(run_dir, lines)
    (policy,) = (
        one["content"] for one in document.of("meta") if one.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256("".join(document.contents[name]).encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"}


def test_hostile_text_is_escaped(run_dir: Path):
    document, text = page(run_dir, hostile_lines())
    assert "alert" not in "".join(document.contents["script"])
    visible = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b").replace("\ud800", "\\ud800")
    assert document.text.count(visible) > 50
    assert "49" not in re.sub(r"[\d.,:-]{3,}", "", document.text)
    assert text.encode("utf-8")
    assert "\u202e" not in text


@pytest.mark.parametrize("lines", RUNS.values(), ids=RUNS)
def test_names_cannot_break_out_of_the_tokens(run_dir: Path, lines: factory.Lines):
    document, _ = page(run_dir, lines)
    for link in document.of("a"):
        assert re.fullmatch(r"[\x21-\x7e]+", link["href"]), link


def test_the_first_screen_has_implementations_devices_results_and_untested_parts(run_dir: Path):
    lines = factory.failing(1, 60)
    lines.insert(
        1, ("not_tested", {"implementation": "article", "device": "cpu", "reason": "takes no float16"})
    )
    task = {"implementation": None, "device": None, "reason": "my-assigner: task obb: --task obb tests it"}
    lines.insert(2, ("not_tested", task))
    document, _ = page(run_dir, lines)
    said, place = document.text, 0
    for words in (
        f"run {run_dir.name}",
        "my-assigner diverges",
        "profile ci",
        "seed 0",
        "cpu tested",
        "cuda not tested: no such device",
        "ultralytics 8.4.190 assign, loss and stages ultralytics-8.4.190 30",
        "1 divergent",
        "Disagreements",
        "divergent my-assigner first at conflict",
        "Not tested: article on cpu, parts of my-assigner, cuda, broken",
        "article on cpu : takes no float16",
        "my-assigner : no loss",
        "Implementations by clause group",
        "Declared differences",
        "Rounding",
        "Ties",
        "Hazards",
        "Training",
        "Benchmarks",
        "Environment",
    ):
        place = said.index(words, place)


def test_what_was_not_tested_is_folded_only_on_a_failing_run(run_dir: Path, tmp_path: Path):
    """A failing run's first screen lists the causes of failure; a passing run's first screen lists untested parts."""
    _, failing = page(run_dir, factory.failing(1, 60))
    _, passing = page(tmp_path / "passing" / "run", factory.passing(60))
    assert '<details class="fold"><summary>Not tested: ' in failing
    assert "<h3>Not tested</h3>" not in failing
    assert "<h3>Not tested</h3>" in passing


def test_each_implementation_has_a_mark_for_every_stage(run_dir: Path):
    _, html = page(run_dir, factory.failing(1, 60))
    *_, mine = re.findall(r'<svg class="stages".*?<title>(.*?)</title>(.*?)</svg>', html)
    assert mine[0].startswith("Stages first diverging: conflict; agreeing: ")
    conflict = list(factory.CLAUSES).index("conflict")
    assert f'<path class="diverges" d="M{conflict} 0h.94v1h-.94z"/>' in mine[1]
    assert mine[1].count("z") == len(factory.CLAUSES)
    assert 'class="diverges"' not in re.findall(r'<svg class="stages".*?</svg>', html)[0]


def test_a_card_has_everything(run_dir: Path):
    document, _ = page(run_dir, factory.failing(1, 60))
    said = document.text
    for words in (
        "an anchor goes to a ground truth that it does not overlap most",
        "Smallest batch 0000c0ffee00 1 image 32x32 px, stride 8, 2 classes: image 0: class 0 at (2, 3)",
        "top-k agrees 0.2 conflict diverges 4.2e+05 targets given 0.1 normali\xadsation given 0.1",
        "image 0, anchor 6 owner GT 1 GT 0 none: an index",
        "Difference Reference Implementation",
        "pytest pytest conformance --implementation my.py:A --case runs/1/cases/0000c0ffee00.safetensors",
        'Python from conformance import check check("my.py:A", "runs/1/cases/0000c0ffee00.safetensors")',
        "Hypothesis @example(recipe=Recipe(cells=(4, 4)",
        "on 1 batch",
    ):
        assert words in said
    (first,) = (one for one in document.of("li", "first"))
    assert first["class"].split() == ["s-diverges", "first"]
    assert first["title"] == "TAL-CONF-1"
    assert next(one["class"] for one in document.of("input") if "checked" in one) == "difference"


def test_an_error_has_its_traceback_and_no_stages(run_dir: Path):
    nothing = [{"stage": "decode", "clause": "DEC-2", "state": "not shown", "margin": None}]
    lines = [
        ("run", run_line([implementation("broken")])),
        ("divergence", error(stages=nothing)),
        ("end", {"exit": 1}),
    ]
    document, _ = page(run_dir, lines)
    assert "IndexError: index 5 is out of bounds for dimension 1 with size 4" in document.text
    assert "Traceback (most recent call last):" in document.text
    assert document.of("ol", "strip") == []


def test_one_cause_is_one_card(run_dir: Path):
    lines = [("divergence", divergence(number, test=f"test_{number}")) for number in range(30)]
    document, _ = page(
        run_dir, [("run", run_line([implementation("my-assigner")])), *lines, ("end", {"exit": 1})]
    )
    assert len(document.of("details", "card")) == 1
    assert "The same on 29 other batches" in document.text
    assert "and 19 more" in document.text


def test_the_clause_of_a_card_links_to_the_specification(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    lines = factory.failing(1, 60)
    lines[0][1]["clauses"] = {
        "TAL-CONF-1": "A contested anchor goes to the ground truth that overlaps it most."
    }
    factory.write(run_dir, lines)
    plain = render(run_dir).read_text()
    assert (
        'title="A contested anchor goes to the ground truth that overlaps it most.">TAL-CONF-1</span>'
        in plain
    )
    assert "specification/#" not in plain
    monkeypatch.setenv(DOCS, "https://example.org/tal/")
    assert (
        '<a class="soft" href="https://example.org/tal/specification/#TAL-CONF-1"'
        in render(run_dir).read_text()
    )


@pytest.mark.parametrize("base", ["", "javascript:alert(1)", "example.org"])
def test_no_link_without_an_address_of_the_site(base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(DOCS, base)
    monkeypatch.setattr(cards, "LOCAL_PAGE", tmp_path / "none.html")
    assert specification_link("TAL-CONF-1", tmp_path) == ""


@pytest.mark.parametrize("clause", ["", 'TAL"', "a b"])
def test_no_link_for_a_text_that_is_not_a_clause(
    clause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv(DOCS, "https://example.org")
    assert specification_link(clause, tmp_path) == ""


def test_the_local_site_is_linked_if_it_was_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    built = tmp_path / "a site" / "specification" / "index.html"
    built.parent.mkdir(parents=True)
    built.touch()
    monkeypatch.delenv(DOCS, raising=False)
    monkeypatch.setattr(cards, "LOCAL_PAGE", built)
    link = specification_link("TAL-CONF-1", tmp_path / "runs" / "1")
    assert link == "../../a%20site/specification/index.html#TAL-CONF-1"
    monkeypatch.setenv(DOCS, "https://example.org")
    assert specification_link("TAL-CONF-1", tmp_path) == "https://example.org/specification/#TAL-CONF-1"


@pytest.mark.parametrize(("causes", "open_cards"), [(1, 1), (3, 3), (4, 1), (40, 1)])
def test_few_cards_are_open_and_many_are_not(run_dir: Path, causes: int, open_cards: int):
    letters = [f"cause {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(causes)]
    lines = [("divergence", error(summary=words)) for words in letters]
    document, _ = page(run_dir, [("run", run_line([implementation("broken")])), *lines, ("end", {"exit": 1})])
    cards = document.of("details", "card")
    assert [("open" in card) for card in cards] == [True] * open_cards + [False] * (causes - open_cards)
    assert ("First diverging stage" in document.text) == (causes > 3)


def test_a_case_file_is_linked_if_it_is_there(run_dir: Path):
    lines = [("run", run_line()), ("divergence", divergence()), ("divergence", divergence(1, stage="box"))]
    lines += [("divergence", divergence(stage="dfl", case="../../etc/passwd"))]
    factory.write(run_dir, lines)
    (run_dir / "cases" / "0000c0ffee00.safetensors").write_bytes(b"case")
    document = Document(render(run_dir).read_text(encoding="utf-8"))
    links = [one["href"] for one in document.of("a") if not one["href"].startswith("#")]
    assert links == ["cases/0000c0ffee00.safetensors"]
    assert "../../etc/passwd" in document.text


def test_failing_batches_without_a_smallest_one_are_reported(run_dir: Path):
    lines = [("batch", batch(n, verdict="divergent", clause_group="LOSS")) for n in range(3)]
    document, _ = page(run_dir, [("run", run_line()), *lines])
    assert "3 failing, without a smallest batch in the log" in document.text
    assert "The run did not finish" in document.text
    assert "ultralytics diverges" in document.text


def test_hazards_without_a_batch_are_reported(run_dir: Path):
    document, _ = page(run_dir, factory.passing(60))
    assert "never dfl clamp a target side is beyond the last bin" in document.text
    assert len(document.of("li", "never")) == 1


def test_synchronisations_are_reported_with_their_lines_of_code(run_dir: Path):
    document, _ = page(run_dir, factory.passing(5))
    assert "article cuda (simulated) 13 12.3 3.0" in document.text
    assert (
        "article synchronisation Tensor.__bool__ my/assigner.py:7: if claims.max() > 1: 26" in document.text
    )


def test_benchmarks_have_ratios_with_intervals(run_dir: Path):
    document, _ = page(run_dir, factory.passing(20))
    assert "0.62× (0.583–0.663) faster" in document.text
    assert "1× (0.94–1.07)" in document.text
    assert "1.7× (1.6–1.82) slower" in document.text
    assert document.text.count("assign forward 16x640 80c 50gt") == 1


def test_a_benchmark_may_lack_a_ratio(run_dir: Path):
    bare = [{"name": "a", "implementation": "b"}, factory.benchmark() | {"ratio_low": None, "seconds": "nan"}]
    document, _ = page(run_dir, [("run", run_line()), *(("benchmark", line) for line in bare)])
    assert "0.62×" in document.text


def test_fragments_quote_what_needs_it():
    assert filter_link(impl="a", clause="TAL-CONF") == "#filter=impl:a%20clause:TAL-CONF"
    assert filter_link(impl='a "b\\') == "#filter=impl:%22a%20%5C%22b%5C%5C%22"


@pytest.mark.parametrize("kept", range(1, 8))
def test_a_killed_run_renders_wherever_its_log_ends(run_dir: Path, kept: int):
    factory.write(run_dir, factory.failing(2, 12))
    whole = (run_dir / "log.jsonl").read_bytes()
    (run_dir / "log.jsonl").write_bytes(whole[: len(whole) * kept // 8])
    page = render(run_dir).read_text(encoding="utf-8")
    assert "The run did not finish" in Document(page).text
    (heading,) = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
    assert any(words in heading for words in ("not finish", "diverge", "not conform", "Nothing was tested"))


def test_an_empty_log_renders(run_dir: Path):
    document = Document(render(factory.write_raw(run_dir, b"")).read_text(encoding="utf-8"))
    assert "Nothing was tested" in document.text
    assert "log.jsonl ends in the middle of a line" in document.text


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_batches_and_two_hundred_divergences_stay_below_two_megabytes(run_dir: Path):
    factory.write(run_dir, factory.failing(200, batches=10_000))
    log = read_log(run_dir)
    assert log.batches.judged > 10_000
    causes = sum(len(one["first_divergences"]) for one in summarise(log)["implementations"])
    assert causes > 30
    path = render(run_dir)
    assert path.stat().st_size < 2_000_000
    document = Document(path.read_text(encoding="utf-8"))
    assert len([card for card in document.of("details", "card") if card["id"].startswith("cause-")]) == causes


def test_long_messages_do_not_fill_the_page(run_dir: Path):
    long = {
        "summary": "s" * 10**6,
        "description": "d" * 10**6,
        "traceback": "t" * 10**6,
        "clause": "c" * 10**6,
    }
    values = [{"where": "w" * 10**5, "quantity": "q", "reference": "r" * 10**5, "implementation": "i"}] * 20
    lines = [("divergence", divergence(**long, values=values, case="f" * 10**5, test="x" * 10**5))]
    document, text = page(run_dir, [("run", run_line()), *lines])
    assert len(text) < 500_000
    assert "8 more in the log." in document.text


def test_entities_are_decoded_as_a_browser_would():
    # The other tests read pages with this parser, which therefore must not hide errors.
    assert Document("<p title='&lt;'>&amp;amp; &#34;</p>").text == html.unescape("&amp;amp; &#34;")


def test_a_diverging_stage_has_no_margin_below_the_bound(run_dir: Path):
    stages = [
        {"stage": "box", "clause": "LOSS-BOX-1", "state": "agrees", "margin": 0.25},
        {"stage": "dfl", "clause": "LOSS-DFL-1", "state": "diverges", "margin": 0.0},
        {"stage": "total", "clause": "LOSS-GAIN-1", "state": "diverges", "margin": 7.5},
    ]
    document, _ = page(run_dir, [("run", run_line()), ("divergence", divergence(stages=stages))])
    assert "box agrees 0.25 dfl diverges total diverges 7.5 Numbers" in document.text


def test_an_error_is_compared_with_its_bound_if_the_log_has_no_margin(run_dir: Path):
    values = [
        {"where": "w", "quantity": "q", "reference": "0.5", "implementation": "0.6", "bound": "0.025"},
        {"where": "w", "quantity": "q", "reference": "True", "implementation": "False", "bound": "none"},
        {"where": "w", "quantity": "q", "reference": "0.5", "implementation": "nan", "bound": "0.025"},
        {"where": "w", "quantity": "q", "reference": "0.5", "implementation": "0.6", "bound": "0"},
    ]
    lines = [("run", run_line()), ("divergence", divergence(values=values)), ("end", {"exit": 1})]
    _, text = page(run_dir, lines)
    assert text.count("× the bound") == 1
    assert "4 × the bound" in text


def test_pictures_of_older_logs_are_drawn_without_explanations(run_dir: Path):
    old = factory.picture()
    for key in ("k", "kept", "items", "facts", "anchors"):
        del old[key]
    lines = [("run", run_line()), ("divergence", divergence(picture=old)), ("end", {"exit": 1})]
    _, text = page(run_dir, lines)
    assert text.count("<figure") == 1
    assert 'class="fold why"' not in text
    assert 'class="spots"' not in text


def test_each_device_and_dtype_has_a_matrix_the_failing_ones_first(run_dir: Path):
    lines = [
        ("run", run_line([implementation("my-assigner")])),
        ("batch", batch(5, "my-assigner")),
        ("batch", batch(14, "my-assigner", device="cuda", dtype="float16", verdict="divergent")),
        ("divergence", divergence(device="cuda", dtype="float16")),
        ("end", {"exit": 1}),
    ]
    _, text = page(run_dir, lines)
    places = re.findall(r"<summary>Clause groups on (.*?)</summary>", text)
    assert places == ["cuda, float16: 1 verdict, 1 failing", "cpu, float32: 1 verdict, none failing"]
    assert "#filter=impl:my-assigner%20clause:TAL-CONF%20device:cuda%20dtype:float16" in text
    _, alone = page(run_dir.with_name("other"), [*lines[:2], lines[-1]])
    assert "Clause groups on" not in alone


def test_the_environment_has_the_speed_of_judging(run_dir: Path):
    times = {"milliseconds": 30.0, "call_milliseconds": 5.0, "drawing_milliseconds": 20.0}
    lines = [("run", run_line([implementation("ultralytics")])), ("batch", batch(1, **times))]
    _, text = page(run_dir, lines)
    told = "<dt>judging ultralytics</dt><dd>20 batches per second and core; 10 times the time of its own calls</dd>"
    assert told in text.partition('<section id="environment">')[2]
    assert "own calls" not in text.partition('<section id="environment">')[0]


def test_with_many_reasons_some_are_folded_away(run_dir: Path):
    reasons = [
        ("not_tested", {"implementation": None, "device": None, "reason": f"reason {n}"}) for n in range(9)
    ]
    _, text = page(run_dir, [("run", run_line()), *reasons, ("batch", batch()), ("end", {"exit": 0})])
    assert "and 6 more</summary>" in text
    assert all(f"reason {n}" in text for n in range(9))


def test_the_first_screen_of_a_run_with_planted_faults(run_dir: Path):
    page = render(factory.write(run_dir, factory.planting(20))).read_text()
    assert ">2 of 20 planted faults not found<" in page
    assert "Nothing was tested" not in page
    assert "No implementation was named" not in page
    assert 'id="disagreements"' not in page
    table = page.partition('aria-label="Planted faults by profile"')[2].partition("</table>")[0]
    assert re.sub("<[^>]*>|\\s+", " ", table).split()[-6:] == ["ci", "20", "16", "2", "2", "4"]
    assert "<details" not in page.partition('<section id="power">')[2].partition("</section>")[0]


@pytest.mark.parametrize(("faults", "shown"), [(100, 100), (101, 20), (1000, 100)])
def test_with_many_planted_faults_the_found_ones_are_folded_away(run_dir: Path, faults: int, shown: int):
    page = render(factory.write(run_dir, factory.planting(faults))).read_text()
    section = page.partition('<section id="power">')[2].partition("</section>")[0]
    table, _, folded = section.partition('aria-label="Planted faults">')[2].partition("<details")
    assert (table.count("<tr>") - 1, max(folded.count("<tr>") - 1, 0)) == (shown, faults - shown)
    assert "survived" in table
    assert "survived" not in folded


def test_the_first_screen_leads_to_the_worst_cause_of_each(run_dir: Path):
    worse = divergence(1, stage="top-k", summary="another anchor")
    lines = factory.failing(1)
    lines.insert(1, ("divergence", worse))
    page = render(factory.write(run_dir, lines)).read_text()
    (link,) = re.findall('class="see" href="[^"]*">([^<]*)<', page)
    assert link == "2 causes, first at top-k"
