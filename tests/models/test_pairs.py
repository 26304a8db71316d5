"""Laws of models/pairs.py: both branches behind the same prompt, response tokens those of the branch, no difference passed over in silence."""

import pytest

from models.chat import TokenizeSettings, tokenize_examples
from models.pairs import TokenizedPair, tokenize_pairs
from models.turns import RejectedExample
from tests.models.test_chat import ROOMY, tokenizer_for

TEXTS = {"prompt": "Once upon a time", "chosen": " there was a cat .", "rejected": " a dog barked at the big red house ."}
ASKED, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi there"), ("assistant", "hello friend"), ("assistant", "go away")))
CHAT = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
CHATML = TokenizeSettings(max_length=100_000, chat_template="chatml")


@pytest.fixture(scope="module")
def tokenizer():
    """Without a template of its own; byte-level, BOS and EOS."""
    return tokenizer_for(None)


def prompt_of(sequence):
    return sequence.token_ids[: sequence.response_positions[0]]


def test_each_branch_is_tokenized_as_an_example_of_its_own(tokenizer):
    (pair,) = tokenize_pairs([TEXTS], tokenizer, ROOMY)
    alone = tokenize_examples([{"prompt": TEXTS["prompt"], "response": TEXTS[b]} for b in ("chosen", "rejected")], tokenizer, ROOMY)
    assert [pair.chosen, pair.rejected] == alone
    assert prompt_of(pair.chosen) == prompt_of(pair.rejected)
    (pair,) = tokenize_pairs([CHAT], tokenizer, CHATML)
    assert [pair.chosen, pair.rejected] == tokenize_examples([{"messages": [ASKED, one]} for one in (GOOD, BAD)], tokenizer, CHATML)


def test_assistant_turns_of_the_prompt_are_prompt(tokenizer):
    again = {"role": "user", "content": "and now"}
    (pair,) = tokenize_pairs([{**CHAT, "prompt": [ASKED, BAD, again]}], tokenizer, CHATML)
    whole, _ = tokenize_examples([{"messages": [ASKED, BAD, again, GOOD]}, {"messages": [ASKED, GOOD]}], tokenizer, CHATML)
    assert pair.chosen.token_ids == whole.token_ids
    assert 0 < len(pair.chosen.response_positions) < len(whole.response_positions)
    assert pair.chosen.response_positions == whole.response_positions[-len(pair.chosen.response_positions) :]
    text = tokenizer.decode([pair.chosen.token_ids[p] for p in pair.chosen.response_positions])
    assert "hello friend" in text
    assert "go away" not in text


def test_several_turns_of_a_branch_are_all_response(tokenizer):
    again = {"role": "user", "content": "and now"}
    (pair,) = tokenize_pairs([{**CHAT, "rejected": [BAD, again, BAD]}], tokenizer, CHATML)
    text = tokenizer.decode([pair.rejected.token_ids[p] for p in pair.rejected.response_positions])
    assert (text.count("go away"), text.count("and now")) == (2, 0)
    assert prompt_of(pair.chosen) == prompt_of(pair.rejected)


def test_the_prompt_is_cut_for_both_alike_and_each_response_by_itself(tokenizer):
    (whole,) = tokenize_pairs([TEXTS], tokenizer, ROOMY)
    short, long = len(whole.chosen.token_ids), len(whole.rejected.token_ids)
    assert short < long
    for length in range(short - 2, long + 1):
        (pair,) = tokenize_pairs([TEXTS], tokenizer, TokenizeSettings(max_length=length, min_prompt_tokens=1))
        assert prompt_of(pair.chosen) == prompt_of(pair.rejected)
        cut = min(long - length, len(prompt_of(whole.chosen)) - 1)  # this tokenizer puts no BOS
        assert pair.chosen.num_prompt_tokens_cut == pair.rejected.num_prompt_tokens_cut == cut
        assert [len(one.token_ids) for one in (pair.chosen, pair.rejected)] == [min(short - cut, length), min(long - cut, length)]
        assert pair.chosen.num_response_tokens_cut == max(0, short - cut - length)


@pytest.mark.parametrize(
    ("example", "settings", "reason", "told"),
    [
        (TEXTS, TokenizeSettings(max_length=3, min_prompt_tokens=16), "nothing left after truncation", "chosen: "),
        ({**TEXTS, "chosen": TEXTS["rejected"] + " Then"}, TokenizeSettings(max_length=20, min_prompt_tokens=1), "equal branches", "cut off"),
        ({**TEXTS, "rejected": " "}, ROOMY, "empty response", "rejected: "),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_rejected_with_its_reason(tokenizer, example, settings, reason, told):
    (bad,) = tokenize_pairs([example], tokenizer, settings)
    assert isinstance(bad, RejectedExample)
    assert bad.reason == reason
    assert told in bad.detail


def test_a_template_that_writes_the_prompt_anew_for_what_follows_is_caught(tokenizer, tmp_path):
    template = tmp_path / "long.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'user' and messages | length > 2 %}again : {% endif %}{{ m.role }} : {{ m.content }}\n{% endfor %}"
    )
    settings = TokenizeSettings(max_length=100_000, chat_template=str(template))
    longer = {**CHAT, "rejected": [BAD, ASKED, BAD]}
    good, bad = tokenize_pairs([CHAT, longer], tokenizer, settings)
    assert isinstance(good, TokenizedPair)
    assert bad.reason == "prompt differs by branch"
    assert "alike up to token" in bad.detail
