"""Laws of the report in a browser: what it shows by pointer, keyboard, search, filter and order; silent console, no request, readable by all."""

import itertools
import shutil
import time

import pytest

from reports.page import write_report
from tests.reports import pages
from tests.warehouse.ids import full, short
from warehouse.read import Reader

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are missing: apt-get install chromium chromium-driver"),
]

COMPONENTS = {
    "adaptation, direct": "adapt_direct",
    "adaptation, causal": "adapt_causal",
    "stability, direct": "stab_direct",
    "stability, causal": "stab_causal",
}
TABS = ("examples", "values", "masks", "training", "drift")

# Contrast of every text with what lies below it, as WCAG 2 defines it; colours are read from a canvas, which knows all their notations.
CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const seen = new Map();
function rgba(colour) {
  if (!seen.has(colour)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    seen.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
  }
  return seen.get(colour);
}
function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour.slice(0, 3);
    if (colour[3] !== 0) throw new Error("half transparent: " + at.outerHTML.slice(0, 80));
  }
  return [255, 255, 255];
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, [disabled], .skip")) continue;
  const isSvg = element.namespaceURI.endsWith("svg");
  const style = getComputedStyle(element);
  const [a, b] = [rgba(isSvg ? style.fill : style.color).slice(0, 3), ground(element)].map(luminance);
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName + "." + element.getAttribute("class"), walker.currentNode.data.slice(0, 30)]);
}
return found;
"""


class Page:
    """The report in a browser."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, tab="examples"):
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}#{tab}")
        self.wait(lambda: self.script("return document.documentElement.dataset.ready"))
        return self

    def wait(self, condition):
        """Wait until something holds; it is looked at, not slept for."""
        until = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < until, f"not within a minute: {condition}"
            time.sleep(0.02)
        return found

    def script(self, code, *given):
        return self.driver.execute_script(code, *given)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector):
        return self.script("return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector)

    def ids(self):
        """Names of the examples that are shown."""
        return short(self.script("return [...document.querySelectorAll('.card h3 code')].map((one) => one.title)"))

    def all_ids(self):
        """Names of the examples on all pages of the list."""
        found = self.ids()
        while (following := self.all(".pager button")[1]).is_displayed() and following.is_enabled():
            following.click()
            found += self.ids()
        return found

    def choose(self, select, text):
        from selenium.webdriver.support.select import Select

        Select(self.all(f"#{select}")[0]).select_by_visible_text(text)

    def search(self, words):
        field, before = self.all("#search")[0], self.texts("#found")
        field.clear()
        field.send_keys(words)
        return self.wait(lambda: self.texts("#found") != before)

    def tooltip(self):
        """What the tooltip tells: its head, its decisions, the text of each row by its label; None when it is hidden."""
        return self.script("""
            const tip = document.getElementById("tooltip");
            if (tip.hidden) return null;
            const rows = [...tip.querySelectorAll("tr")].map((row) => [row.cells[0].textContent, [row.cells[1].textContent, row.cells[3].textContent]]);
            return { head: tip.querySelector(".tip-head").textContent, keeps: [...tip.querySelectorAll(".decision")].map((one) => one.textContent), rows: Object.fromEntries(rows) };
        """)  # fmt: skip

    def focused(self):
        return self.script("return document.activeElement.textContent")

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def scheme(self, name):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install 'alphatoken[test]'")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # In a container /dev/shm is small, and Chromium's own sandbox has no rights; the page is ours.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield running
    running.quit()


@pytest.fixture(scope="module")
def reader(pairs):
    with Reader(pairs) as reader:
        yield reader


@pytest.fixture(scope="module")
def file(reader, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(reader, file)
    return file


@pytest.fixture
def page(driver, file):
    driver.set_window_size(1280, 1000)
    page = Page(driver, file.as_uri())
    page.scheme("light")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    yield page.open()
    assert driver.get_log("browser") == []


def test_nothing_is_requested_and_nothing_breaks_out(page):
    import json

    for tab in TABS:
        page.all(f"#tab-{tab}")[0].click()
        assert page.texts(f"#panel-{tab}")[0]
    page.all("#tab-examples")[0].click()
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition("#")[0] for url in asked if not url.startswith(("about:", "data:"))} == {page.url}
    assert page.driver.title.startswith("AlphaToken report: ")
    assert any("</script><script>document.title" in text for text in page.texts(".context"))
    assert any("<img src=x onerror" in text for text in page.texts(".t"))
    assert len(page.all("script")) == 2
    assert page.all("img") == []


def figure(text):
    return float(text.replace("−", "-").replace("+", ""))


def test_pointing_at_a_token_tells_its_components_losses_and_decisions(page, reader):
    token = page.all(".branch .response")[0].find_elements("css selector", ".t")[3]
    page.hover(token)
    told = page.tooltip()
    example, branch = page.ids()[0], page.texts(".branch-name")[0]
    position = int(told["head"].split("position ")[1].split(",")[0])
    assert position == len(pages.PROMPT) + 3
    (row,) = reader.sql(
        "SELECT * FROM token_values WHERE example_id = $e AND branch = $b AND position = $p", e=full(example), b=branch, p=position
    ).to_dicts()
    assert set(told["rows"]) == {*COMPONENTS, "loss", "reference loss", "entropy"}
    for label, column in {**COMPONENTS, "loss": "loss", "reference loss": "ref_loss"}.items():
        value, verdict = told["rows"][label]
        assert figure(value) == pytest.approx(row[column], rel=0.01, abs=1e-9), label
        assert verdict == ("" if label not in COMPONENTS else "helps" if row[column] > 0 else "hurts" if row[column] < 0 else "neutral")
    kept = dict(reader.sql("SELECT policy, keep FROM token_masks WHERE example_id = $e AND branch = $b AND position = $p", e=full(example), b=branch, p=position).rows())  # fmt: skip
    assert told["keeps"] == [
        f"{'✓' if kept[policy] else '✗'} {policy}: {'kept' if kept[policy] else 'masked'}" for policy in ("default", "full")
    ]
    page.hover(page.all("h1")[0])
    assert page.tooltip() is None


def test_keyboard_focus_tells_the_same_and_arrows_walk(page):
    from selenium.webdriver.common.keys import Keys

    response = page.all(".branch .response")[0]
    tokens = response.find_elements("css selector", ".t")
    page.hover(tokens[1])
    pointed = page.tooltip()
    page.hover(page.all("h1")[0])
    page.all(".prompt summary")[0].send_keys(Keys.TAB)
    assert page.script("return document.activeElement === arguments[0]", tokens[0])
    page.keys(Keys.ARROW_RIGHT)
    assert page.tooltip() == pointed
    assert page.script("return document.activeElement.getAttribute('aria-describedby')") == "tooltip"
    assert page.script("return arguments[0].querySelectorAll('.t[tabindex=\"0\"]').length", response) == 1
    page.keys(Keys.END)
    assert page.script("return document.activeElement === arguments[0]", tokens[-1])
    page.keys(Keys.ARROW_RIGHT)  # nothing lies beyond
    assert page.script("return document.activeElement === arguments[0]", tokens[-1])
    page.keys(Keys.ARROW_UP)
    tops = page.script("return [arguments[0], document.activeElement].map((one) => one.getClientRects()[0].top)", tokens[-1])
    assert tops[1] < tops[0]
    page.keys(Keys.HOME, Keys.ARROW_LEFT)
    assert page.script("return document.activeElement === arguments[0]", tokens[0])
    page.keys(Keys.ESCAPE)
    assert page.tooltip() is None
    page.keys(Keys.ENTER)
    assert page.tooltip() is not None
    page.keys(Keys.TAB)  # the next stop is the other branch, not the next token
    assert page.script("return document.activeElement.closest('.response')") == page.all(".branch .response")[1]


def test_search_finds_text_over_token_borders_and_ids(page, reader):
    page.search("sat.")
    expected = {f"e{n:02d}" for n in range(pages.NUM_EXAMPLES) if any(ids[i : i + 2] == [3, 4] for ids in (pages.response(n, "chosen"), pages.response(n, "rejected")) for i in range(len(ids)))}  # fmt: skip
    assert 0 < len(expected) < pages.NUM_EXAMPLES
    assert page.texts("#found") == [f"{len(expected)} of 45 embedded examples"]
    assert set(page.texts(".t.hit")) == {" sat", "."}
    assert set(page.all_ids()) == expected
    page.search("ünïCODE")
    assert set(page.texts(".t.hit")) == {" Ünïcode"}
    page.search(full("e07"))
    assert page.ids() == ["e07"]
    page.search("no such text")
    assert page.ids() == []
    assert page.texts("#found") == ["0 of 45 embedded examples"]


def test_filters_leave_one_source_or_one_branch(page):
    page.choose("source", "web")
    assert sorted(page.ids()) == [f"e{n:02d}" for n in range(0, pages.NUM_EXAMPLES, 3)]
    page.choose("source", "none named")
    assert sorted(page.ids()) == [f"e{n:02d}" for n in range(2, pages.NUM_EXAMPLES, 3)]
    page.choose("branch", "rejected")
    assert set(page.texts(".branch-name")) == {"rejected"}
    assert page.all(".pair") == []
    assert len(page.ids()) == 15


def test_order_follows_the_column_and_the_policy(page, reader):
    page.choose("branch", "chosen")
    page.choose("column", "stability, direct")
    page.choose("order", "highest mean value first")
    means = short(dict(reader.sql("SELECT example_id, avg(stab_direct) FROM token_values WHERE branch = 'chosen' GROUP BY ALL").rows()))
    found = [means[example] for example in page.all_ids()]
    assert len(found) == pages.NUM_EXAMPLES
    assert all(one >= following - 0.005 * abs(following) for one, following in itertools.pairwise(found))
    assert found[0] == max(found) > found[-1]
    page.choose("order", "lowest mean value first")
    assert means[page.ids()[0]] == pytest.approx(min(found), rel=0.01)
    page.choose("order", "least kept first")
    kept = "SELECT example_id, avg(keep::INT) FROM token_masks WHERE branch = 'chosen' AND policy = 'default' GROUP BY ALL"
    shares = short(dict(reader.sql(kept).rows()))
    found = [shares[example] for example in page.all_ids()]
    assert found == sorted(found)
    page.choose("order", "longest response first")
    assert len(page.ids()) == 20


def test_pages_show_every_example_once(page):
    found = page.all_ids()
    assert len(found) == len(set(found)) == pages.NUM_EXAMPLES
    back, _ = page.all(".pager button")[:2]
    back.click()
    assert len(page.ids()) == 20
    assert page.texts(".pager span")[0] == "page 2 of 3"


def test_a_pair_stands_side_by_side_and_below_one_another_on_a_narrow_screen(page):
    boxes = [one.rect for one in page.all(".card")[0].find_elements("css selector", ".branch")]
    assert page.texts(".card:first-child .branch-name") == ["chosen", "rejected"]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    page.driver.set_window_size(600, 900)
    boxes = page.wait(
        lambda: (
            (found := [one.rect for one in page.all(".card")[0].find_elements("css selector", ".branch")])[0]["x"] == found[1]["x"]
            and found
        )
    )
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "a long token does not widen the page"


def test_masked_tokens_are_struck_through_by_the_chosen_policy(page):
    marks = "return [...document.querySelectorAll('.branch .t')].map((one) => getComputedStyle(one).textDecorationLine)"
    default = page.script(marks)
    examples = [(example, branch) for example in page.ids() for branch in ("chosen", "rejected")]
    assert default == ["none" if keep else "line-through" for e, b in examples for keep in pages.keeps(int(e[1:]), b, "default")]
    page.choose("policy", "full")
    assert set(page.script(marks)) == {"none"}
    page.choose("policy", "none: show no mask")
    assert set(page.script(marks)) == {"none"}


def test_colours_follow_the_sign_of_the_column_and_the_legend_tells_them(page):
    def classes():
        return page.script(
            "return [...document.querySelectorAll('.card:first-child .branch .t')].map((one) => one.className.split(' ')[1])"
        )

    number = int(page.ids()[0][1:])
    for column, label in enumerate(COMPONENTS):
        page.choose("column", label)
        signs = [
            "none" if v is None else "p" if v > 0 else "n" if v < 0 else "z"
            for b in ("chosen", "rejected")
            for v in pages.values(number, b, column)
        ]
        assert all(found.startswith(sign) or found == "z" for found, sign in zip(classes(), signs, strict=True))
        assert {found[0] for found in classes()} >= {"p", "n"}
        assert "helps" in page.texts(".legend")[0]
    page.choose("column", "loss")
    assert {found[0] for found in classes()} <= {"q", "z"}
    assert "helps" not in page.texts(".legend")[0]
    assert "null" not in page.texts(".legend")[0]


def test_what_cannot_be_seen_is_drawn(page):
    texts = set(page.texts(".branch .t"))
    assert {"↵\n", "␣␣␣", "⟨U+202E⟩evil", "⟨U+2028⟩", "∅", f"⟨id {pages.OUTSIDE}⟩", " sat"} <= texts
    page.all("#spaces")[0].click()
    assert "␣sat" in page.texts(".branch .t")


def test_figures_show_all_tokens_and_trainings(page, reader):
    page.open("values")
    assert len(page.all(".chart")) == 9  # the columns, margin and weight
    assert len(page.all(".chart rect.masked-bar")) > 0
    page.choose("policy", "full")
    assert page.all(".chart rect.masked-bar") == []
    page.open("masks")
    rows = page.script(
        "return [...document.querySelectorAll('#panel-masks table')].map((table) => [...table.tBodies[0].rows].map((row) => row.textContent))"
    )
    assert [len(one) for one in rows[:3]] == [2, 2, 3]  # policies, branches, sources
    page.open("training")
    assert len(page.all("figure .chart")) == 3
    assert len(page.all("figure polyline")) == 6  # the newest of each policy
    assert len(page.all("#panel-training tbody tr")) == 3
    page.open("drift")
    assert len(page.all("#panel-drift tbody tr")) == 7


def test_what_decides_the_weight_of_a_pair_is_told(page):
    page.open("examples")
    assert page.texts(".card .fact").count("margin 0, weight ω 1") == len(page.ids())
    page.choose("order", "smallest margin first")
    assert len(page.ids()) > 0
    page.open("values")
    assert {"margin of the pairs pairs.margin", "weight of the pairs pairs.weight"} <= set(page.texts("figure h3"))
    page.open("masks")
    assert "By branch" in page.texts("caption")


def test_tabs_work_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    page.all("#tab-examples")[0].send_keys(Keys.ARROW_LEFT)
    assert page.script("return document.activeElement.id") == "tab-drift"
    assert page.script("return location.hash") == "#drift"
    page.keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert page.script("return document.activeElement.id") == "tab-values"
    assert [one.is_displayed() for one in page.all("[role=tabpanel]")] == [False, True, False, False, False]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_both_schemes(page, scheme):
    page.scheme(scheme)
    ground = page.script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 200) == (scheme == "dark")
    num = 0
    for tab in TABS:
        page.open(tab)
        if tab == "examples":
            page.search("sat.")
        for column in ("adaptation, direct", "loss") if tab == "examples" else (None,):
            if column:
                page.choose("column", column)
            page.script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            if column:
                page.hover(page.all(".branch .t.hit")[0])
                assert page.tooltip() is not None
            found = page.script(CONTRAST)
            num += len(found)
            assert [one for one in found if one[0] < 4.5] == []
    assert num > 500


def test_the_theme_can_be_chosen_against_the_system(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(ground)
    page.choose("theme", "dark")
    assert page.script(ground) != light
    page.choose("theme", "light")
    assert page.script(ground) == light


def test_everything_that_can_be_reached_has_a_role_and_a_name(page):
    page.hover(page.all(".branch .t")[0])
    for tab in TABS:
        page.all(f"#tab-{tab}")[0].click()
        nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        told = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and any(one["name"] == "focusable" and one["value"]["value"] for one in node.get("properties", []))
        ]
        assert {"tab", "combobox"} <= {role for role, _ in told}
        # The document is told by its title; the two that only take the focus of the skip link are containers.
        assert [one for one in told if not one[1] and one[0] not in ("RootWebArea", "main")] == []
        pictures = [node for node in nodes if not node["ignored"] and node["role"]["value"] in ("image", "img")]
        assert all(node["name"]["value"] for node in pictures)
        assert audit(page) == {"twice": [], "nowhere": [], "untitled": 0, "firsts": 1, "skips": [], "language": "en"}


def audit(page):
    """Ids used twice, references to none, tables without a title, how headings go, the language."""
    return page.script("""
        const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
        const referred = [...document.querySelectorAll("*")].flatMap((one) => ["aria-controls", "aria-labelledby", "aria-describedby", "for"].map((name) => one.getAttribute(name)).filter(Boolean));
        const levels = [...document.querySelectorAll("h1, h2, h3, h4")].filter((one) => one.checkVisibility()).map((one) => Number(one.tagName[1]));
        return {
          twice: ids.filter((id, at) => ids.indexOf(id) !== at), nowhere: referred.filter((id) => !ids.includes(id)),
          untitled: [...document.querySelectorAll("table")].filter((one) => !one.closest("[role=tooltip]") && !one.caption?.textContent).length,
          firsts: levels.filter((level) => level === 1).length, skips: levels.filter((level, at) => at && level > levels[at - 1] + 1), language: document.documentElement.lang,
        };
    """)  # fmt: skip


def test_a_policys_rule_is_told_in_a_line(driver):
    import json
    from dataclasses import replace
    from pathlib import Path

    import reports
    from warehouse.policies import BUILT_IN, PolicySettings

    assets = Path(reports.__file__).parent / "assets"
    code = "".join((assets / f"{name}.js").read_text() for name in ("words", "figures")) + "return rule(arguments[0]);"

    def told(policy, **found):
        return driver.execute_script(code, json.loads(policy.as_json(found)))

    components = "the best 70.0% of each response by adapt_causal + adapt_direct + stab_causal + stab_direct, z-scores over the data set"
    assert told(PolicySettings()) == components
    assert (
        told(PolicySettings(expression="-loss", threshold=-2.5, soft="rank"))
        == "score at least -2.5 of each response by -loss, weights by rank"
    )
    assert told(PolicySettings(select="random", keep=0.4, scope="dataset")) == "40.0% of the data set at random"
    default = BUILT_IN["default"]
    found = "found by comparison with the validation set"
    assert told(default, auto={"threshold": -3.25}) == f"score at least −3.25, {found}, by -ref_loss"
    assert told(default, auto={"threshold": None}) == "everything, as in the validation set, by -ref_loss"
    assert told(BUILT_IN["random"]) == "as many of each response as the comparison with the validation set keeps, at random"
    assert told(default, beta=0.1) == components  # pairs
    branches = {"rejected": replace(default.branches["rejected"], keep=0.4)}
    apart = told(replace(PolicySettings(), branches=branches), beta=0.1)
    assert apart == f"chosen: {components}; rejected: {components.replace('70', '40')}"
