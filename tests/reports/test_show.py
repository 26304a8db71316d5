"""Laws of reports/show.py: a response is printed whole, with masks and values told by signs alone where there are no colours."""

import io
import re

import pytest
from rich.console import Console

from reports.show import print_example
from tests.reports import pages
from tests.warehouse.ids import filled, full, short
from warehouse.explain import explain
from warehouse.read import Reader


@pytest.fixture(scope="module")
def reader(pairs):
    with Reader(pairs) as reader:
        yield reader


@pytest.fixture
def printed(reader):
    def tell(name, column="adapt_direct", policy="default", **how):
        console = Console(file=io.StringIO(), width=2000, highlight=False, **how)
        print_example(explain(reader, full(name)), column, policy, console=console)
        return short(console.file.getvalue())

    return tell


def test_without_colours_masked_and_high_tokens_stand_in_brackets(printed):
    text = printed("e01")
    assert "\x1b" not in text
    assert "e01 (chosen), policy default: 7 of 14 tokens kept, mean adapt_direct -0.0143" in text
    assert "e01 (rejected)" in text
    assert "[-.-]↵\n[-␣␣␣-]{+<img src=x onerror" in text
    assert "{+⟨U+2028⟩+}[-∅⟨outside the vocabulary⟩-] sat</s>" in text
    assert "\u202e" not in text


def test_a_terminal_gets_colours_by_sign_and_struck_masks_and_no_brackets(printed):
    text = printed("e01", force_terminal=True, color_system="256", no_color=False)
    assert "[-" not in text
    assert "{+" not in text
    line = next(line for line in text.splitlines() if "Ünïcode" in line)
    styles = dict(re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b", line)[::-1])
    assert "9" in next(style for style, token in styles.items() if "Ünïcode" in token).split(";")
    codes = {code for style in styles for code in style.split(";")}
    assert {"33", "208"} <= codes


def test_no_color_is_respected_on_a_terminal(printed, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed("e01", force_terminal=True)
    assert "[-.-]↵" in text
    assert "38;5" not in text


def test_a_signal_is_neither_good_nor_bad(printed):
    text = printed("e01", column="loss", force_terminal=True, color_system="256", no_color=False)
    assert "208" not in text
    assert "larger is neither better nor worse" in text
    assert "+" not in re.sub(r"U\+", "", printed("e01", column="loss").split("\nhighest ")[1].split("lowest")[0])


def test_the_highest_and_lowest_tokens_are_named_with_their_positions(printed, reader):
    text = printed("e03")
    rows = reader.sql(
        filled("SELECT position FROM token_values WHERE example_id = 'id:e03' AND branch = 'chosen' ORDER BY adapt_direct DESC, position")
    )
    table = text.split("\nhighest ")[1].split("\n\n")[0]
    positions = [int(found) for found in re.findall(r"^(?:lowest)? +(\d+) ", table, re.MULTILINE)]
    assert positions == [*rows["position"][:3], *rows["position"][-3:]]


def test_the_policy_asked_for_is_shown(printed):
    assert "policy full: 14 of 14 tokens kept" in printed("e01", policy="full")
    assert "[-masked-]" in printed("e01", policy="full")
    assert printed("e01", policy="full").count("[-") == 2  # the legends'


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"column": "worth"}, "there is no column of values 'worth'; there are: adapt_direct, adapt_causal"),
        ({"policy": "nix"}, "there is no policy with a current mask 'nix'; there are: default, full"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(printed, asked, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        printed("e01", **asked)


def test_an_example_without_values_says_what_tells_more(tmp_path):
    from tests.warehouse import written

    with Reader(written.make(tmp_path / "wh")) as reader:
        for name, why in (("gone", "is not in the current training snapshot"), ("e4", "has no values in this release")):
            with pytest.raises(ValueError, match=f"example {full(name)} {why}; `alphatoken explain {full(name)}`"):
                print_example(explain(reader, full(name)), "adapt_direct", "default")


def test_a_token_without_a_value_has_no_place_among_the_extremes(printed):
    assert pages.values(0, "chosen", 0)[0] is None
    assert " 4 " not in printed("e00").split("\nhighest ")[1].split("\n\n")[0]
