"""Laws of warehouse/layouts.py: one meaning, one canonical content, whatever the layout; everything else is refused with a reason."""

import datetime
import decimal
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.content import quoted
from warehouse.digests import digest, example_identity
from warehouse.layouts import LAYOUTS, BadRow, Normaliser, canonical_json

PAIR = '{"prompt":"2 + 2?","response":"4"}'
ASKED, ANSWERED = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
CHAT = '{"messages":[{"content":"hi","role":"user"},{"content":"hello","role":"assistant"}]}'

REASONS = {"missing column", "wrong type", "empty response", "no assistant turn", "empty conversation", "unknown role", "not UTF-8"}


def normalise(row, columns=None):
    return Normaliser(columns or {})(row)


def content_of(row, columns=None):
    return json.loads(normalise(row, columns)[0])


def refusal(row, columns=None):
    with pytest.raises(BadRow) as caught:
        normalise(row, columns)
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "response": "4"},
        {"response": "4", "prompt": "2 + 2?"},
        {"prompt": "2 + 2?", "completion": "4"},
        {"instruction": "2 + 2?", "output": "4"},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"instruction": "2 + 2?", "input": None, "output": "4"},
        {"question": "2 + 2?", "answer": "4"},
    ],
)
def test_every_pair_layout_gives_the_same_content(row):
    assert normalise(row) == (PAIR, None, None)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWERED]},
        {"conversations": [ASKED, ANSWERED]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"messages": json.dumps([ASKED, ANSWERED])},
        {"messages": [json.dumps(ASKED), json.dumps(ANSWERED)]},
        {"messages": [ASKED, {**ANSWERED, "tool_calls": None, "name": None, "id": 7}], "tools": None},
        {"messages": [ASKED, {**ANSWERED, "tool_calls": []}], "tools": []},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]},
    ],
)
def test_every_chat_layout_gives_the_same_content(row):
    assert normalise(row) == (CHAT, None, None)


def test_input_follows_the_instruction_after_a_blank_line():
    assert content_of({"instruction": "Add", "input": "1 2", "output": "3"}) == {"prompt": "Add\n\n1 2", "response": "3"}


def test_text_is_never_trimmed_and_an_empty_prompt_is_allowed():
    assert content_of({"prompt": "", "response": " 4\n"}) == {"prompt": "", "response": " 4\n"}


def test_turns_keep_what_templates_read():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": None, "y": [1.5, "ü"]}}}
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "thinking": "so"},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": ""},
    ]
    content = content_of({"messages": turns, "tools": json.dumps([{"name": "f"}])})
    turns[2].pop("content")
    assert content == {"messages": turns, "tools": [{"name": "f"}]}


@pytest.mark.parametrize(("given_role", "role"), [("system", "system"), ("tool", "tool"), ("function", "tool"), ("observation", "tool")])
def test_sharegpt_roles(given_role, role):
    turns = [{"from": given_role, "value": "x"}, {"from": "gpt", "value": "y"}]
    assert content_of({"conversations": turns})["messages"][0] == {"role": role, "content": "x"}


def test_messages_win_over_a_prompt_beside_them_unless_null():
    row = {"prompt": "2 + 2?", "response": "4", "messages": [ASKED, ANSWERED]}
    content, _, extra = normalise(row)
    assert (content, json.loads(extra)) == (CHAT, {"prompt": "2 + 2?", "response": "4"})
    assert normalise({**row, "messages": None}) == (PAIR, None, None)


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("missing column", {"prompt": "x"}),
        ("missing column", {"prompt": "x", "response": None}),
        ("missing column", {}),
        ("wrong type", {"prompt": "x", "response": 4}),
        ("wrong type", {"prompt": ["x"], "response": "4"}),
        ("wrong type", {"prompt": "x", "response": True}),
        ("wrong type", {"instruction": "x", "input": {}, "output": "y"}),
        ("wrong type", {"messages": "hi"}),
        ("wrong type", {"messages": 3}),
        ("wrong type", {"messages": ["hi"]}),
        ("wrong type", {"messages": [[ASKED]]}),
        ("wrong type", {"messages": [{"role": "assistant", "content": None}]}),
        ("wrong type", {"messages": [{"role": "assistant"}]}),
        ("wrong type", {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ANSWERED]}),
        ("wrong type", {"messages": [ASKED, ANSWERED], "tools": "none"}),
        ("wrong type", {"messages": [ASKED, ANSWERED], "tools": {"name": "f"}}),
        ("empty response", {"prompt": "x", "response": ""}),
        ("empty response", {"prompt": "x", "response": " \n"}),
        ("empty response", {"messages": [ASKED, {"role": "assistant", "content": " "}]}),
        ("empty conversation", {"messages": []}),
        ("no assistant turn", {"messages": [ASKED]}),
        ("unknown role", {"messages": [{"role": "narrator", "content": "x"}, ANSWERED]}),
        ("unknown role", {"messages": [{"content": "x"}]}),
        ("unknown role", {"messages": [{"role": ["user"], "content": "x"}]}),
        ("not UTF-8", {"prompt": "\ud800", "response": "x"}),
        ("not UTF-8", {"prompt": "x", "response": "y", "source": "\udfff"}),
        ("not UTF-8", {"prompt": "x", "response": "y", "\udfff": 1}),
    ],
)
def test_refused_rows(reason, row):
    assert refusal(row) == reason


def test_columns_mapping_names_the_layout():
    row = {"instruction": "Add", "context": "1 2", "response": "3", "category": "sum", "messages": [ASKED]}
    columns = {"input": "context", "output": "response", "source": "category"}
    content, source, extra = normalise(row, columns)
    assert json.loads(content) == {"prompt": "Add\n\n1 2", "response": "3"}
    assert source == "sum"
    assert json.loads(extra) == {"messages": [ASKED]}
    assert refusal({"instruction": "Add", "context": "1 2", "output": "3"}, columns) == "missing column"


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"prmpt": "a"}, "unknown role prmpt; expected roles among answer, "),
        ({"prompt": ""}, "non-empty column name"),
        ({"prompt": "a", "response": "a"}, "its own"),
        ({"prompt": "a", "answer": "b"}, "no layout has the roles answer, prompt together"),
        ({"question": "a", "tools": "b"}, "no layout has the roles"),
    ],
)
def test_impossible_mappings_are_refused(columns, match):
    with pytest.raises(ValueError, match=match):
        Normaliser(columns)


def test_preferences_are_recognised_unless_mapped():
    row = {"prompt": "x", "chosen": "good", "rejected": "bad"}
    assert content_of(row) == row
    assert content_of({**row, "response": "other"}) == row
    assert content_of({"q": "x", "chosen": "good", "rejected": "bad"}, {"prompt": "q"}) == row
    assert refusal({**row, "rejected": None}) == "missing column"
    assert content_of(row, {"response": "chosen"}) == {"prompt": "x", "response": "good"}


def test_source_is_text_or_absent():
    row = {"prompt": "2 + 2?", "response": "4"}
    assert [normalise({**row, "source": source})[1] for source in ("web", 3, ["b", "a"], "", None)] == ["web", "3", '["b","a"]', None, None]


def test_extra_renders_what_json_has_no_form_for():
    row = {
        "prompt": "2 + 2?",
        "response": "4",
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        "clock": datetime.time(1, 2, 3),
        "took": datetime.timedelta(minutes=1.5),
        "price": decimal.Decimal("1.10"),
        "blob": b"\x00\xff",
        "scores": [float("nan"), float("inf"), -float("inf"), 0.5],
        "nothing": None,
    }
    assert json.loads(normalise(row)[2]) == {
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00+00:00",
        "clock": "01:02:03",
        "took": 90.0,
        "price": "1.10",
        "blob": "AP8=",
        "scores": ["NaN", "Infinity", "-Infinity", 0.5],
    }


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip))
def test_pairs_are_canonical_json_and_read_back(prompt, response):
    content, source, extra = normalise({"prompt": prompt, "response": response})
    assert content == canonical_json({"response": response, "prompt": prompt})
    assert json.loads(content) == {"prompt": prompt, "response": response}
    assert (source, extra) == (None, None)
    assert example_identity(content) == digest("example", content)


@given(st.text(st.characters(exclude_categories=[])) | st.text(st.sampled_from('a é\n\t\\"\x00\x1f\x7f\ud800')))
def test_texts_are_quoted_as_json_does(text):
    assert quoted(text) == json.dumps(text, ensure_ascii=False)


@given(
    st.dictionaries(
        st.sampled_from(["x", *(c for layout in LAYOUTS for c in layout.required + layout.optional)]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), inner)
            ),
            max_leaves=8,
        ),
    )
)
def test_any_row_gives_content_or_a_reason(row):
    reason, content, extra = None, "{}", None
    try:
        content, _, extra = normalise(row)
    except BadRow as bad:
        reason = bad.reason
    keys = set(json.loads(content))
    assert reason in REASONS if reason else keys in ({"prompt", "response"}, {"messages"}, {"messages", "tools"})
    assert extra is None or json.loads(extra)
