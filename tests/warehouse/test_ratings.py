"""Laws of warehouse/ratings.py: which pairs rated responses make, whatever the order of their rows."""

import json
import random

import pytest

from warehouse.ingest import SourceSettings, read_examples
from warehouse.ratings import RatingSettings
from warehouse.write import snapshot_identity

ROWS = [
    {"prompt": "p", "response": "bad", "rating": 1, "source": "a", "note": 7},
    {"prompt": "p", "response": "good", "rating": 3, "source": "b"},
    {"prompt": "p", "response": "fair", "rating": "2"},
    {"prompt": "p", "response": "good", "rating": 5, "source": "a"},
    {"prompt": "q", "response": "only", "rating": 1},
    {"prompt": "r", "response": "one", "rating": 2},
    {"prompt": "r", "response": "other", "rating": 2.0},
]


def read(base, rows, *, columns=None, **settings):
    (base / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(
        SourceSettings(path="rated.jsonl", ratings=RatingSettings(**settings), columns=columns or {}, max_rejected_share=1), base
    )


def pairs(ingested):
    contents = [json.loads(content) for content in ingested.examples["content"]]
    return {(one["prompt"], one["chosen"], one["rejected"]) for one in contents}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {("p", "good", "bad")}),
        ({"pairs": "best_rest"}, {("p", "good", "bad"), ("p", "good", "fair")}),
        ({"pairs": "all"}, {("p", "good", "bad"), ("p", "good", "fair"), ("p", "fair", "bad")}),
        ({"pairs": "all", "min_difference": 2}, {("p", "good", "bad"), ("p", "good", "fair")}),
    ],
)
def test_pairs_are_those_asked_for(tmp_path, settings, expected):
    got = read(tmp_path, ROWS, **settings)
    assert pairs(got) == expected
    assert (got.kind, got.num_rows, set(got.examples["multiplicity"])) == ("preference", 7, {1})


def test_a_pair_tells_the_place_of_its_chosen_response_and_both_ratings(tmp_path):
    got = read(tmp_path, ROWS)
    ((source, extra, line),) = got.examples.select("source", "extra", "line").rows()
    assert (source, line, json.loads(extra)) == ("a", 2, {"chosen_rating": 4.0, "rejected_rating": 1.0})  # mean of 3 and 5


def test_prompts_without_a_pair_and_rows_without_a_rating_are_set_aside(tmp_path):
    bad = [
        {"prompt": "p", "response": "x"},
        {"prompt": "p", "response": "x", "rating": "much"},
        {"prompt": "p", "response": "x", "rating": True},
    ]
    got = read(tmp_path, [*ROWS, *bad])
    assert got.rejected.select("line", "reason").sort("line").rows() == [
        (5, "no pair"), (6, "no pair"), (7, "no pair"), (8, "no rating"), (9, "no rating"), (10, "no rating"),
    ]  # fmt: skip
    told = dict(got.rejected.select("line", "raw").rows())
    assert "the prompt's only response" in told[5]
    assert "rated alike" in told[6]


def test_an_empty_rated_response_is_set_aside_with_its_line(tmp_path):
    asked = {"role": "user", "content": "hi"}
    chats = [
        {"messages": [asked, {"role": "assistant", "content": text}], "rating": rating} for text, rating in (("yes", 5), ("", 1), ("no", 2))
    ]
    got = read(tmp_path, chats)
    assert got.rejected.select("line", "reason").rows() == [(2, "empty response")]
    assert len(got.examples) == 1


@pytest.mark.parametrize("how", ["best_worst", "best_rest", "all"])
def test_the_order_of_rows_changes_nothing(tmp_path, how):
    data = [*ROWS, {"prompt": "q", "response": "only", "rating": 1, "note": "of the same response"}]
    first = snapshot_identity(read(tmp_path, data, pairs=how))
    for seed in range(4):
        shuffled = random.Random(seed).sample(data, len(data))
        assert snapshot_identity(read(tmp_path, shuffled, pairs=how)) == first


def test_conversations_are_rated_by_their_last_turn(tmp_path):
    asked, answers = {"role": "user", "content": "hi"}, [{"role": "assistant", "content": c} for c in ("a", "b")]
    rows = [{"messages": [asked, answer], "score": i} for i, answer in enumerate(answers)] + [{"messages": [answers[0], asked], "score": 1}]
    got = read(tmp_path, rows, column="score")
    assert json.loads(got.examples["content"][0]) == {"prompt": [asked], "chosen": [answers[1]], "rejected": [answers[0]]}
    assert got.rejected["reason"].to_list() == ["no assistant turn"]


def test_rows_that_are_pairs_already_are_refused(tmp_path):
    got = read(tmp_path, [*ROWS, {"prompt": "p", "chosen": "a", "rejected": "b", "rating": 1}])
    assert "a pair of responses" in got.rejected.filter(got.rejected["reason"] == "wrong type")["raw"][0]


@pytest.mark.parametrize("wrong", [{"pairs": "some"}, {"column": ""}, {"min_difference": -1}, {"min_difference": float("nan")}])
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match=f"ratings.{next(iter(wrong))}"):
        RatingSettings(**wrong)
