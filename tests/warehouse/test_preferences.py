"""Laws of warehouse/preferences.py: one content for a pair, however its columns hold it; what compares nothing is refused with a reason."""

import itertools
import json

import pytest

from tests.warehouse.test_layouts import content_of, normalise, refusal

SYSTEM, ASKED = {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}
GOOD, BAD = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "go away"}
TEXTS = '{"chosen":"hello","prompt":"hi","rejected":"go away"}'
TURNS = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "hi", "chosen": "hello", "rejected": "go away"}, {}),
        ({"rejected": "go away", "chosen": "hello", "prompt": "hi", "tools": []}, {}),
        ({"instruction": "hi", "input": " ", "chosen": "hello", "rejected": "go away"}, {}),
        ({"question": "hi", "good": "hello", "bad": "go away"}, {"prompt": "question", "chosen": "good", "rejected": "bad"}),
    ],
)
def test_texts_stay_texts(row, columns):
    assert normalise(row, columns)[0] == TEXTS


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASKED], "chosen": "hello", "rejected": "go away"},
        {"prompt": [ASKED], "chosen": GOOD, "rejected": {"from": "gpt", "value": "go away"}},
        {"prompt": "hi", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"conversations": [{"from": "human", "value": "hi"}], "chosen": "hello", "rejected": {"from": "gpt", "value": "go away"}},
        {"conversations": json.dumps([ASKED]), "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, BAD])},
        {"prompt": "hi", "messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 1},
    ],
)
def test_messages_become_what_follows_the_prompt(row):
    assert content_of(row) == TURNS


def test_a_message_in_front_of_the_named_prompt_is_prompt():
    whole = {"prompt": "hi", "chosen": [SYSTEM, ASKED, GOOD], "rejected": [SYSTEM, ASKED, BAD]}
    assert content_of(whole) == {**TURNS, "prompt": [SYSTEM, ASKED]}


def test_what_both_conversations_begin_with_is_prompt_assistant_turns_included():
    later = {"role": "user", "content": "and now?"}
    content = content_of({"chosen": [ASKED, GOOD, later, GOOD], "rejected": [ASKED, GOOD, later, BAD]})
    assert content == {"prompt": [ASKED, GOOD, later], "chosen": [GOOD], "rejected": [BAD]}


def test_tools_make_messages_of_texts():
    content = content_of({"prompt": "hi", "chosen": "hello", "rejected": "go away", "tools": [{"name": "f"}]})
    assert content == {**TURNS, "tools": [{"name": "f"}]}


def test_other_columns_are_kept_beside_a_pair():
    content, source, extra = normalise({"prompt": "hi", "chosen": "hello", "rejected": "go away", "source": "web", "score": 2})
    assert (content, source, json.loads(extra)) == (TEXTS, "web", {"score": 2})


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("equal branches", {"prompt": "hi", "chosen": "same", "rejected": "same"}),
        ("equal branches", {"prompt": "hi", "chosen": [GOOD], "rejected": [ASKED | GOOD]}),
        ("equal branches", {"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]}),
        ("empty response", {"prompt": "hi", "chosen": "hello", "rejected": " \n"}),
        ("empty response", {"prompt": "hi", "chosen": "", "rejected": "go away"}),
        ("empty response", {"chosen": [ASKED], "rejected": [ASKED, BAD]}),
        ("empty response", {"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD, ASKED, BAD]}),
        ("empty response", {"prompt": "hi", "chosen": [GOOD], "rejected": [{**BAD, "content": " "}]}),
        ("different prompts", {"chosen": [ASKED, GOOD], "rejected": [{**ASKED, "content": "ho"}, BAD]}),
        ("different prompts", {"chosen": [SYSTEM, ASKED, GOOD], "rejected": [ASKED, BAD]}),
        ("different prompts", {"prompt": "ho", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}),
        ("different prompts", {"chosen": [GOOD], "rejected": [BAD]}),
        ("empty conversation", {"conversations": [], "chosen": "a", "rejected": "b"}),
        ("wrong type", {"prompt": "hi", "chosen": 1, "rejected": 2}),
        ("wrong type", {"chosen": "hello", "rejected": "go away"}),
        ("unknown role", {"prompt": [{"role": "who", "content": "x"}], "chosen": "a", "rejected": "b"}),
        ("missing column", {"prompt": "hi", "chosen": "hello"}),
    ],
)  # fmt: skip
def test_what_compares_nothing_is_refused(reason, row):
    assert refusal(row) == reason


def test_the_order_of_keys_does_not_change_the_content():
    rows = [dict(items) for items in itertools.permutations({"prompt": "hi", "chosen": "hello", "rejected": "go away"}.items())]
    assert {normalise(row)[0] for row in rows} == {TEXTS}
