"""Laws of reports/story.py: the story on the terminal names everything that the release knows, and says why something is missing."""

import pytest

import warehouse as package
from reports.story import print_story
from tests.warehouse import written
from tests.warehouse.ids import full, short
from warehouse.explain import explain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written.make(tmp_path_factory.mktemp("story") / "wh")


@pytest.fixture
def told(folder, capsys, monkeypatch):
    """Print the story of an example and return it in one line, with names for the ids."""
    monkeypatch.setenv("COLUMNS", "300")

    def tell(name, position=None):
        with package.open(folder) as reader:
            print_story(explain(reader, full(name), position))
        return short(" ".join(capsys.readouterr().out.split()))

    return tell


def test_an_example_is_told_with_its_origin_masks_and_lineage(told):
    text = told("e1")
    for words in (
        "example e1", "prompt one", "train snapshot snap (current): f line 1, source a, 3 times; run run1", "train snapshot before: f line 1, source b",
        "sequence (sft) s1: 6 tokens, 4 of them response tokens", "default (sft) 2 of 4 tokens kept; mask m1, run run1", "random (sft) 2 of 4",
        "scoring new, estimator exact, float32", "base, digest r0", "warm-up, digest r1", "direction d1: validation snapshot val, 7 examples",
        "direction d2; made on training snapshot before", "run run1 (value_tokens", "AlphaToken 0.1.0, commit abc123",
        "code versions directions 2, probe 3",
    ):  # fmt: skip
        assert words in text


def test_a_token_is_told_with_its_values_and_decisions(told):
    text = told("e1", 3)
    assert "token at position 3 of example e1" in text
    assert "default (sft) masked; mask m1" in text
    assert "random (sft) kept; mask m2" in text
    assert "adapt_direct │ -1 │ 3 │ 3" in text
    assert "adapt_direct │ NULL │ NULL │ 3" in told("e1", 4)


def test_what_has_no_values_says_why(told):
    assert "no current values it is not in the current training snapshot" in told("gone")
    text = told("e4")
    assert "no sequence (sft) empty_response: nothing to learn" in text
    assert "no current values it has no values in this release" in text
