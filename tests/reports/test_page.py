"""Laws of reports/page.py: one file with all it shows, that loads nothing, stays under its limit, and cannot be broken by what it shows."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from reports import page as module
from reports.page import write_report
from tests.reports import pages
from warehouse.connect import Warehouse
from warehouse.read import Reader
from warehouse.release import write_release


class Elements(HTMLParser):
    """Elements with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def made(pairs, tmp_path):
    """Write the report and return (what was written, its text)."""

    def make(folder=pairs, **asked):
        with Reader(folder) as reader:
            done = write_report(reader, tmp_path / "report.html", **asked)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert done.num_bytes == len(text.encode())
        return done, text

    return make


def content(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_no_text_of_the_data_becomes_markup(made):
    _, text = made()
    tags = [tag for tag, _ in Elements(text).found]
    assert (tags.count("script"), tags.count("img"), tags.count("style")) == (2, 0, 1)
    assert set(pages.VOCABULARY) - set(content(text)["sample"]["vocabulary"]) == set()
    assert "broken out" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_nothing_outside_the_file_is_named_and_its_policy_allows_this_script_alone(made):
    _, text = made()
    elements = Elements(text)
    links = [value for _, attributes in elements.found for name, value in attributes.items() if name in ("src", "href", "action")]
    assert links == ["data:,", "#panels"]
    assert re.findall(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|import\(", text) == []
    policy = next(attributes["content"] for tag, attributes in elements.found if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        inside = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1]
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy


def test_the_same_release_gives_the_same_page(made):
    assert made()[1] == made()[1]


def test_a_page_that_would_be_too_large_embeds_fewer_examples_and_says_so(made, monkeypatch):
    _, whole = made()
    limit = len(whole.encode()) - 3000
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    done, text = made()
    assert 1 < done.num_examples < pages.NUM_EXAMPLES == done.num_examples_valued
    assert done.num_bytes < limit
    embedded = content(text)["embedded"]
    assert (embedded["num_examples"], embedded["asked"]) == (done.num_examples, 2000)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert made()[0].num_examples == 1


def test_a_sample_is_as_large_as_asked(made):
    done, text = made(num_examples=3)
    assert done.num_examples == 3 == len(content(text)["sample"]["examples"]["id"])
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        made(num_examples=0)


def test_a_release_without_values_is_refused_with_what_to_do(tmp_path):
    with Warehouse(tmp_path / "wh"):
        pass
    write_release(tmp_path / "wh", 2)
    with Reader(tmp_path / "wh") as reader, pytest.raises(ValueError, match="has no values to show; run `alphatoken value` first"):
        write_report(reader, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_a_real_run_holds_its_examples(valued_once, made):
    done, text = made(valued_once.warehouse)
    assert done.num_examples == valued_once.sql("SELECT count(DISTINCT example_id) FROM token_values")[0][0]
    assert content(text)["head"]["warehouse_name"] == f"{valued_once.warehouse.parent.name}/warehouse"
    assert [policy["policy"] for policy in content(text)["policies"]] == ["default", "full", "random"]


def test_an_installed_package_carries_every_file_of_the_page():
    import tomllib
    from fnmatch import fnmatch
    from pathlib import Path

    root = Path(module.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    used = {"report.html", "report.css", *(f"{name}.js" for name in module._SCRIPTS)}
    assert {path.name for path in (root / "assets").iterdir()} == used
    assert all(any(fnmatch(f"assets/{name}", pattern) for pattern in settings["package-data"]["reports"]) for name in used)
