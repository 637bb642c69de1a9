"""The report page in a real Chromium: opened from disk, clicked, typed into, linked to, printed, fed hostile text."""

import re
import shutil
from html import escape
from urllib.parse import quote

import pytest
import report_data

from hf_compalign.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]

PAGE = 25
WAIT_MS = 3000
expect.set_options(timeout=WAIT_MS)
N_MANY = 10_000
# Before anything of the page runs: whatever the policy stops is kept.
WATCH = "window.stopped = []; addEventListener('securitypolicyviolation', (e) => stopped.push(e.violatedDirective));"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def audits():
    text = report_data.text_audit(n=1000, n_items=78)
    many = report_data.unlabeled_audit(n=400)
    many["items"] = [item | {"id": f"{item['id']}-{turn}"} for turn in range(N_MANY) for item in many["items"]][:N_MANY]
    return {
        "text": text,
        "hostile": report_data.hostile(text),
        "image": report_data.image_audit() | {"groups": [], "calibration": None, "attribution": None},
        "many": many,
        "same": report_data.same_audit(),
        "labels": report_data.many_labels_audit(),
        "long": text | {"label_names": ["automobile", "helicopter", "submarine"]},
    }


@pytest.fixture(scope="module")
def files(audits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: write_report(folder / f"{name}.html", [found]) for name, found in audits.items()}
    text = escape(paths["text"].read_text(encoding="utf-8"))
    frame = f'<iframe id="frame" sandbox="allow-scripts" width="900" height="700" srcdoc="{text}"></iframe>'
    (folder / "framed.html").write_text(f'<!DOCTYPE html><link rel="icon" href="data:,">{frame}', encoding="utf-8")
    return paths | {"framed": folder / "framed.html"}


@pytest.fixture
def opened(browser, files):
    """A function that opens a page; in the end nothing was said, asked for or stopped anywhere."""
    contexts, troubles, pages = [], [], []

    def open_page(name, fragment="", **options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(WAIT_MS)
        page = contexts[-1].new_page()
        page.add_init_script(WATCH)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith(allowed) else troubles.append(request.url))
        page.goto(f"{files[name].as_uri()}{fragment}")
        pages.append(page)
        return page

    allowed = ("data:", *(path.as_uri() for path in files.values()))
    yield open_page
    for page in pages:
        assert page.evaluate("window.stopped ?? []") == []
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(opened):
    return opened("text")


def rows(page):
    return page.locator("#rows > tr:not(.explanation)")


def column(page, key):
    return page.locator(f"#rows td.{key}").all_inner_texts()


def choice(page, name):
    return page.get_by_role("combobox", name=name, exact=True)


def status(page):
    return page.locator("#count")


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("text", 1280, "light"), ("image", 360, "dark"), ("same", 360, "light")]
)
def test_a_page_opens_from_disk_and_fits(opened, name, width, scheme):
    page = opened(name, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light dark"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(253, 253, 251)" if scheme == "light" else "rgb(21, 23, 26)")


# The parts of names that do not stand on one line, and the texts of figures that leave them.
BROKEN = """
  [...document.querySelectorAll('#rows td bdi, .scroll bdi')].flatMap((name) => [...name.childNodes])
    .filter((node) => node.nodeType === Node.TEXT_NODE && !/\\s/.test(node.textContent))
    .filter((node) => {
      const range = document.createRange();
      range.selectNode(node);
      return range.getClientRects().length > 1;
    }).map((node) => node.textContent)
"""
CUT = """
  [...document.querySelectorAll('.chart svg text')].filter((text) => {
    const [own, all] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
    return own.left < all.left - 1 || own.right > all.right + 1;
  }).map((text) => text.textContent)
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_many_long_labels_fit_and_break_between_their_words_only(opened, width):
    page = opened("labels", viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(CUT) == []
    wide = "[...document.querySelectorAll('#rows td')].filter((one) => one.scrollWidth > one.clientWidth).length"
    assert page.evaluate(wide) == 0


@pytest.mark.parametrize(("width", "at_least"), [(390, 1), (1280, 3)])
def test_images_are_cards_side_by_side(opened, width, at_least):
    page = opened("image", viewport={"width": width, "height": 800})
    cards = [card.bounding_box() for card in rows(page).all()[: 2 * at_least]]
    assert [card["y"] for card in cards[:at_least]] == [cards[0]["y"]] * at_least < [cards[-1]["y"]] * at_least
    assert all(card["x"] >= 0 and card["x"] + card["width"] <= width for card in cards)
    first = rows(page).first
    assert first.locator(".thumbnail").bounding_box()["width"] > 60
    assert first.locator(".heat").count() == 2
    assert page.locator("#rows .explanation").count() == 0


def test_without_javascript_everything_is_there_but_the_controls(opened):
    page = opened("text", java_script_enabled=False)
    assert rows(page).count() == 50
    assert page.get_by_text("Searching, sorting, paging and explanations need JavaScript").is_visible()
    assert not page.locator("#filters").is_visible()
    assert page.get_by_role("img").count() >= 6  # the charts


@pytest.mark.parametrize("width", [1280, 360])
def test_hostile_text_is_shown_and_runs_nowhere(opened, width):
    page = opened("hostile", viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    shown = page.locator("#rows .text").all_text_contents()
    assert shown[:10] == list(report_data.HOSTILE[:10])
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for control in page.locator(".more").all()[:2]:
        control.click()
    rows(page).first.hover()
    page.get_by_label("Search").fill("[u+d83d]")
    expect(status(page)).to_contain_text("Items 1 to 1 of 1 that match")
    page.get_by_role("button", name="Clear").click()
    choice(page, "Group").select_option(f"target: {report_data.HOSTILE[1]}")
    expect(status(page)).to_contain_text("Items 1 to 1 of 1")
    assert page.evaluate("[window.hacked, document.scripts.length, document.images.length]") == [None, 2, 0]


def test_a_hostile_name_can_be_linked_to(opened):
    page = opened("hostile", f"#item={quote(report_data.HOSTILE[1])}")
    expect(page.locator(".marked .id bdi")).to_have_text(report_data.HOSTILE[1])
    missing = quote("<img src=x onerror=window.hacked=1>")
    page = opened("hostile", f"#item={missing}&q=%00&sort=constructor&label=toString")
    expect(status(page)).to_contain_text("There is no item <img src=x onerror=window.hacked=1> here.")
    assert page.evaluate("window.hacked") is None


def test_filters_search_and_their_address(page, audits):
    items = audits["text"]["items"]
    assert status(page).inner_text() == "Items 1 to 25 of 78"
    choice(page, "What changed").select_option(label=f"right, now wrong ({count(items, cell='lost')})")
    lost = [item for item in items if item["cell"] == "lost"]
    expect(status(page)).to_have_text(f"Items 1 to 25 of {len(lost)} that match, of 78 in all")
    assert set(column(page, "cell")) == {"right, now wrong"}
    choice(page, "Label").select_option("1")
    few = [item for item in lost if item["label"] == 1]
    expect(status(page)).to_contain_text(f"of {len(few)} that match")
    word = few[0]["texts"][0].split()[1]
    page.get_by_label("Search").fill(f"  {word.upper()}  ")
    fewer = [item for item in few if word in item["texts"][0].lower()]
    expect(status(page)).to_contain_text(f"of {len(fewer)} that match")
    assert column(page, "item")[0].startswith(fewer[0]["texts"][0])
    assert page.evaluate("location.hash") == f"#q={word.upper()}&cell=lost&label=1"
    page.reload()
    expect(status(page)).to_contain_text(f"of {len(fewer)} that match")
    expect(page.get_by_label("Search")).to_have_value(word.upper())
    page.get_by_role("button", name="Clear").click()
    expect(status(page)).to_have_text("Items 1 to 25 of 78")
    page.get_by_label("Search").fill("no such words")
    expect(status(page)).to_have_text("No item matches, of 78 in all")
    assert rows(page).count() == 0


def count(items, **wanted):
    return sum(all(item[name] == value for name, value in wanted.items()) for item in items)


def test_a_click_on_a_header_sorts(page, audits):
    divergences = sorted((f"{item['kl']:.4g}" for item in audits["text"]["items"]), key=float, reverse=True)
    header = page.locator("th.kl")
    before = column(page, "item")
    for direction, wanted in (("descending", divergences), ("ascending", divergences[::-1])):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == direction
        shown = [float(text) for text in column(page, "kl")]
        assert shown == pytest.approx([float(text) for text in wanted[:PAGE]], abs=6e-4)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "none"
    assert column(page, "item") == before
    page.locator("th.candidate").get_by_role("button").click()
    assert column(page, "candidate") == sorted(column(page, "candidate"))


def test_a_class_and_a_group_lead_to_their_items(page, audits):
    page.get_by_text("Classes of the labels, most harmed first").first.click()
    page.locator("#classes").get_by_role("link", name="positive").click()
    n = count(audits["text"]["items"], label=2)
    expect(status(page)).to_contain_text(f"of {n} that match")
    expect(choice(page, "Label")).to_have_value("2")
    page.go_back()
    page.locator("#groups-1 summary").first.click()
    page.locator("#groups-1").get_by_role("link", name="women").click()
    expect(choice(page, "Group")).to_have_value("target: women")
    assert set(column(page, "label")) > {"positive"}


def test_a_link_to_what_is_not_here_shows_nothing_and_not_everything(opened):
    for fragment in ("#label=7", "#group=target%3A+nobody", "#cell=constructor", "#candidate=x&q=slow"):
        page = opened("text", fragment)
        expect(status(page)).to_have_text("No item matches, of 78 in all")
    page.get_by_role("button", name="Clear").click()
    expect(status(page)).to_have_text("Items 1 to 25 of 78")
    page.evaluate("location.hash = '#label=7'")
    expect(status(page)).to_have_text("No item matches, of 78 in all")
    choice(page, "Label").select_option("1")
    expect(status(page)).to_contain_text("that match, of 78 in all")


def test_a_filter_ends_with_its_address_and_takes_the_highlight_along(opened, audits):
    item = audits["text"]["items"][0]
    page = opened("text", f"#item={item['id']}")
    expect(page.locator("#rows .marked")).to_have_count(1)
    page.evaluate(f"location.hash = '#label={item['label']}'")
    expect(status(page)).to_contain_text("that match")
    expect(page.locator("#rows")).to_contain_text(item["id"])
    expect(page.locator("#rows .marked")).to_have_count(0)
    page = opened("text")
    page.get_by_text("Classes of the labels, most harmed first").first.click()
    page.locator("#classes").get_by_role("link", name="positive").click()
    expect(status(page)).to_contain_text("that match")
    page.go_back()
    expect(status(page)).to_have_text("Items 1 to 25 of 78")
    expect(choice(page, "Label")).to_have_value("")
    # An address that is no text is no error.
    page = opened("text", "#%zz")
    page.evaluate("location.hash = '#%zy'")
    page.evaluate("location.hash = '#classes'")
    expect(page.locator("#classes")).to_be_focused()


def test_an_item_can_be_linked_to(opened, audits):
    wanted = audits["text"]["items"][60]["id"]
    page = opened("text", f"#item={wanted}")
    marked = page.locator("#rows .marked")
    expect(marked).to_contain_text(wanted)
    expect(marked).to_be_focused()
    expect(marked).to_be_in_viewport()
    assert page.locator("#page").inner_text() == "Page 3 of 4"
    rows(page).first.locator("a.id").click()
    expect(marked).to_contain_text(audits["text"]["items"][50]["id"])
    page.go_back()
    expect(marked).to_contain_text(wanted)


def test_a_link_to_an_item_keeps_the_filter_unless_it_hides_the_item(opened, audits):
    page = opened("text", "#cell=lost&sort=-kl")
    lost = [item for item in audits["text"]["items"] if item["cell"] == "lost"]
    rows(page).nth(2).locator("a.id").click()
    expect(page.locator("#rows .marked")).to_have_count(1)
    expect(status(page)).to_contain_text(f"of {len(lost)} that match")
    expect(choice(page, "What changed")).to_have_value("lost")
    other = next(item for item in audits["text"]["items"] if item["cell"] != "lost")
    page.evaluate(f"location.hash = '#item={other['id']}'")
    expect(page.locator("#rows .marked")).to_contain_text(other["id"])
    expect(status(page)).to_contain_text("of 78")
    expect(choice(page, "What changed")).to_have_value("")


def test_items_with_an_explanation_can_be_asked_for(page, audits):
    n = sum(item["explanation"] is not None for item in audits["text"]["items"])
    page.get_by_label("with explanation").check()
    expect(status(page)).to_contain_text(f"of {n} that match")
    assert rows(page).count() == page.locator("#rows .explanation").count()
    page.reload()
    expect(page.get_by_label("with explanation")).to_be_checked()
    page.get_by_label("with explanation").uncheck()
    expect(status(page)).to_have_text("Items 1 to 25 of 78")


def test_on_a_phone_a_chart_says_that_it_scrolls_and_takes_the_focus(opened):
    chart = opened("text", viewport={"width": 390, "height": 800}).locator(".chart").first
    assert chart.evaluate("(one) => one.scrollWidth > one.clientWidth")
    chart.focus()
    expect(chart).to_be_focused()
    assert "scroll sideways" in chart.evaluate("(one) => getComputedStyle(one, '::before').content")
    assert opened("text", viewport={"width": 1280, "height": 800}).locator(".chart[tabindex]").count() == 0


def test_a_long_name_of_a_class_does_not_break(opened):
    for cell in opened("long").locator("#rows td.reference bdi").all()[:5]:
        assert cell.evaluate("(one) => one.getClientRects().length") == 1


def test_ten_thousand_items_keep_the_page_small(opened):
    page = opened("many")
    size = "document.querySelectorAll('#table *').length"
    small = page.evaluate(size)
    assert rows(page).count() == PAGE
    page.get_by_role("button", name="Next").click()
    assert status(page).inner_text() == "Items 26 to 50 of 10,000"
    page.locator("th.kl").get_by_role("button").click()
    choice(page, "Reference").select_option("1")
    expect(status(page)).to_contain_text("that match, of 10,000 in all")
    page.evaluate("location.hash = '#page=400'")
    expect(page.locator("#page")).to_have_text("Page 400 of 400")
    assert page.get_by_role("button", name="Next").is_disabled()
    assert page.evaluate(size) < 2 * small < 3000


def test_the_tokens_of_both_models_stand_side_by_side_with_their_scores(page, audits):
    item = next(item for item in audits["text"]["items"] if item["explanation"])
    panels = page.locator("#rows .explanation").first.locator(".panels > div")
    names = audits["text"]["label_names"]
    for side, panel in zip(("reference", "candidate"), panels.all(), strict=True):
        assert panel.locator(".side").inner_text() == f"{side.capitalize()}, which answers {names[item[side]]}"
        scores, tokens = item["explanation"][side], panel.locator(".token")
        assert tokens.count() == len(scores)
        top = max(range(len(scores)), key=lambda place: abs(scores[place]))
        assert re.search("p5|n5", tokens.nth(top).get_attribute("class"))
        assert ("p5" in tokens.nth(top).get_attribute("class")) == (scores[top] > 0)
        said = panel.locator(".strongest").inner_text()
        sign = "+" if scores[top] > 0 else "\N{MINUS SIGN}"
        assert said.startswith(f"Strongest: {item['explanation']['tokens'][top].removeprefix('##')}\xa0{sign}1.00")
    page.get_by_label("every score").check()
    shown = "getComputedStyle(document.querySelector('#rows .token.p5'), '::after').content"
    assert "+" in page.evaluate(shown)


def test_a_heat_map_lies_on_its_image_and_has_a_legend_of_its_own_and_no_scores_to_show(opened, audits):
    page = opened("image")
    assert page.get_by_label("every score").count() == 0
    assert "orange with a slash against it" in page.locator(".legend").inner_text()
    assert "underlined" not in page.locator(".legend").inner_text()
    item = next(item for item in audits["image"]["items"] if item["explanation"])
    heat = page.locator("#rows .heat").first
    assert heat.get_attribute("role") == "img"
    seen = [score for score in item["explanation"]["reference"] if abs(round(score, 3)) >= 0.05]
    assert heat.locator("rect").count() == len(seen)
    assert heat.locator("path").get_attribute("d").count("M") == sum(score < 0 for score in seen)
    assert heat.locator("img").bounding_box() == heat.locator("svg").bounding_box()


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the report")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_label("Search").focus()
    page.keyboard.type("slow")
    expect(status(page)).to_contain_text("that match")
    stops = []
    for _ in range(13):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    filters = ["cell", "label", "reference", "candidate", "group", "explained", "scores"]
    assert stops == [*filters, "Clear", "Item", "What changed", "Label", "Reference", "Sure (reference)"]
    page.keyboard.press("Enter")
    assert page.locator("th.reference_confidence").get_attribute("aria-sort") == "descending"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_roles_and_names_are_there_for_those_who_listen(opened):
    page = opened("text", viewport={"width": 360, "height": 800})
    assert status(page).get_attribute("aria-live") == "polite"
    assert page.get_by_role("main").count() == page.get_by_role("search", name="Items").count() == 1
    assert page.get_by_role("navigation", name="Contents").get_by_role("link").count() > 10
    table = page.get_by_role("table", name="Items that the two models answer differently")
    assert table.get_by_role("columnheader").count() == 9
    assert table.get_by_role("row").count() == 1 + page.locator("#rows > tr").count()
    for chart in page.locator(".chart svg").all():
        assert len(chart.get_attribute("aria-label")) > 20


def test_the_theme_is_chosen_and_kept(opened):
    page = opened("text", color_scheme="light")
    button = page.get_by_role("button", name="Theme")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    for name, same in (("light", True), ("dark", False)):
        button.click()
        expect(button).to_have_text(f"Theme: {name}")
        assert (page.evaluate(background) == light) == same
    page.reload()
    expect(button).to_have_text("Theme: dark")
    button.click()
    expect(button).to_have_text("Theme: as the system")


def test_a_sandboxed_frame_without_storage_and_history_is_enough(opened):
    frame = opened("framed").frame_locator("#frame")
    frame.get_by_role("button", name="Theme").click()
    frame.get_by_text("See the items that changed").click()
    choice(frame, "What changed").select_option("gained")
    expect(frame.locator("#count")).to_contain_text("that match, of 78 in all")
    frame.locator("#rows a.id").first.click()
    expect(frame.locator(".marked")).to_be_focused()


def test_paper_shows_what_is_open_and_no_controls(opened):
    page = opened("text", viewport={"width": 718, "height": 1000})  # of A4, less its margins
    page.locator("#classes summary").first.click()
    page.emulate_media(media="print", color_scheme="dark")
    shown = page.locator("details").all()
    assert sum(one.is_visible() for one in shown) == 1 < len(shown)
    assert page.get_by_text("What is folded on the screen is not printed.").is_visible()
    assert not page.locator("#filters").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def pages_of(pdf):
    """How many pages a file of Chromium's has."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_paper_has_few_pages_whatever_the_number_of_classes(opened):
    page = opened("labels")
    folded = pages_of(page.pdf(format="A4"))
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert folded <= 14 < pages_of(page.pdf(format="A4"))
