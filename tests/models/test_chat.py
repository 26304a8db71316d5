"""models/chat.py: examples to token ids and response positions."""

import importlib.resources
import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.chat import TokenizedSequence, TokenizeSettings, resolve_chat_template, tokenize_examples
from models.turns import RejectedExample
from models.vocabulary import token_texts

REAL = Path(os.environ.get("ALPHATOKEN_REAL", Path(__file__).parents[2] / ".." / "shared" / "real"))
REAL_TOKENIZERS = ["TinyStories-656K", "stories260K"]
ROOMY = TokenizeSettings(max_length=100_000)
CONTROL = re.compile(r"<[|｜][^<>'\" ]{1,40}[|｜]>|<(?:start|end)_of_turn>|<end_of_utterance>|<\|?turn\|?>|\[gMASK\]|<sop>")

# Templates that take any order of roles, those that insist on user and assistant taking turns, those that read lists of parts.
ANY_ORDER = [
    "deepseek_r1_distill",
    "deepseekv3",
    "gemma4",
    "glm4moe",
    "lfm2",
    "llama3",
    "llama3_1",
    "nemotron_3_nano",
    "phi3",
    "qwen2_5",
    "qwen3",
]
ANY_ORDER += ["qwen3_5_nothink", "qwen3_5_think", "muse_glimmer", "smolvlm", "idefics3", "chatml"]
TAKING_TURNS = ["cohere", "cohere2", "gemma", "gemma3", "gptoss", "llava_next"]
# Where the mask of the `_training` variant differs from ours by design: what it also counts. A header that the generation prompt supplies, the
# block of reasoning such a prompt opens, the EOS that phi3 puts after the whole chat.
SAME_AS_TRAINING = [
    "cohere",
    "cohere2",
    "gemma",
    "gemma3",
    "glm4moe",
    "lfm2",
    "lfm2_v2",
    "llama3",
    "qwen2_5",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_vl",
]
SUPPLIED = {
    "deepseekv3": r"<｜Assistant｜>|<｜tool▁outputs▁end｜>",
    "deepseek_r1_distill": r"<｜Assistant｜>|<｜tool▁outputs▁end｜>",
    "phi3": r"</s>",
    "qwen3_5_nothink": r"<think>\n\n</think>",
    "qwen3_5_think": r"<think>",
    "nemotron_3_nano": r"<think>",
}

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {}}}}
CHATS = [
    [
        ("system", "Be brief."),
        ("user", "How are you?"),
        ("assistant", "Fine, thanks!"),
        ("user", "And now?"),
        ("assistant", "  Still well.\n"),
    ],
    [
        ("user", "Add 2 and 3."),
        ("assistant", "5"),
        ("user", "5"),
        ("assistant", "Yes, 5 it is; 5."),
        ("user", "Fine, thanks!"),
        ("assistant", "🙂 é"),
    ],
    [
        ("user", "Look it up."),
        ("assistant", "I call a tool."),
        ("tool", '{"answer": 42}'),
        ("assistant", "It is 42."),
        ("user", "Ah."),
        ("assistant", "So."),
    ],
]


def chat(turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def real_rows(num):
    path = REAL / "data" / "chat_toolcall.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()[:num]] if path.exists() else []


@pytest.fixture(params=REAL_TOKENIZERS)
def real(request):
    path = REAL / "models" / request.param
    if not path.exists():
        pytest.skip(f"no real tokenizers at {REAL}; set ALPHATOKEN_REAL")
    return AutoTokenizer.from_pretrained(path)


@cache
def template_text(name):
    if name == "chatml":
        return resolve_chat_template(None, TokenizeSettings(chat_template="chatml"))
    folder = importlib.resources.files("trl") / "chat_templates"
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def byte_level_json():
    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=True)  # offsets without the leading space, as several real models have them
    texts = [
        "The weather in Rome is sunny and fine. I call a tool, thanks! It is how you are; assistant user system\n\n",
        "a [b [c fine",
    ] * 20
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return raw.to_str()


@cache
def tokenizer_for(name):
    """Build a byte-level tokenizer in which a template's control tokens are single tokens."""
    template = template_text(name) if name else None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level_json()), bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(CONTROL.findall(template or "")))})
    tokenizer.chat_template = template
    return tokenizer


def templated(template):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level_json()), bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(CONTROL.findall(template)))})
    tokenizer.chat_template = template
    return tokenizer


def one(example, tokenizer, settings=ROOMY):
    (result,) = tokenize_examples([example], tokenizer, settings)
    return result


def runs(sequence, tokenizer):
    """Give the decoded text of each run of response tokens, split after end-of-turn tokens."""
    texts, last = [], None
    for position in sequence.response_positions:
        if position - 1 != last or last in sequence.end_of_turn_positions:
            texts.append([])
        texts[-1].append(sequence.token_ids[position])
        last = position
    return [tokenizer.decode(ids) for ids in texts]


def spoken(example):
    return [message["content"].strip() for message in example["messages"] if message["role"] == "assistant"]


# Without a template


def expected_plain(tokenizer, prompt, response, max_length, min_prompt, separator=""):
    """Write the rule out: BOS + the kept end of the prompt + the kept start of response and EOS."""
    prompt = tokenizer(prompt + separator, add_special_tokens=False).input_ids
    response = [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    room_for_prompt = max(max_length - 1 - len(response), min(min_prompt, len(prompt)))
    kept_prompt = prompt[-room_for_prompt:] if room_for_prompt else []
    kept_response = response[: max_length - 1 - len(kept_prompt)]
    return [tokenizer.bos_token_id, *kept_prompt], kept_response, len(prompt) - len(kept_prompt), len(response) - len(kept_response)


PROMPT = "Which quantities decide how expensive an exact gradient is, and who pays for them in the end? One day, a little girl asked."
RESPONSE = "She wanted to share the needle with her mom."


@pytest.mark.parametrize("separator", ["", "\n"])
@pytest.mark.parametrize("min_prompt", [0, 4, 16])
def test_prompt_and_response_follow_the_rule_at_every_length(real, min_prompt, separator):
    kinds = set()
    for max_length in range(2, 100):
        settings = TokenizeSettings(max_length=max_length, min_prompt_tokens=min_prompt, separator=separator)
        result = one({"prompt": PROMPT, "response": RESPONSE}, real, settings)
        head, kept, prompt_cut, response_cut = expected_plain(real, PROMPT, RESPONSE, max_length, min_prompt, separator)
        if max_length <= len(head):
            assert isinstance(result, RejectedExample)
            assert result.reason == "nothing left after truncation"
            kinds.add("nothing")
            continue
        assert isinstance(result, TokenizedSequence)
        assert result.token_ids == head + kept
        assert result.response_positions == list(range(len(head), len(head) + len(kept)))
        assert (result.num_prompt_tokens_cut, result.num_response_tokens_cut) == (prompt_cut, response_cut)
        assert result.end_of_turn_positions == ([] if response_cut else [len(head + kept) - 1])
        assert (real.eos_token_id in result.token_ids) == (response_cut == 0)
        kinds.add((prompt_cut > 0, response_cut > 0))
    assert kinds >= {(False, False), (True, False), (True, True)}
    assert ("nothing" in kinds) == (min_prompt > 0)


def test_an_empty_prompt_is_allowed_and_an_empty_response_is_not(real):
    full, blank = tokenize_examples([{"prompt": "", "response": "Tom ran."}, {"prompt": "Who?", "response": " \n"}], real, ROOMY)
    assert full.token_ids == [real.bos_token_id, *real("Tom ran.", add_special_tokens=False).input_ids, real.eos_token_id]
    assert full.response_positions == list(range(1, len(full.token_ids)))
    assert blank.reason == "empty response"


def test_bos_and_eos_only_where_the_tokenizer_has_and_uses_them():
    tokenizer = tokenizer_for(None)  # has a BOS that it does not put before a text
    assert one({"prompt": "a", "response": "b"}, tokenizer).token_ids == [*tokenizer("ab").input_ids, tokenizer.eos_token_id]
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level_json()))
    result = one({"prompt": "", "response": "b"}, bare)
    assert (result.token_ids, result.response_positions, result.end_of_turn_positions) == (bare("b").input_ids, [0], [])


def test_results_keep_their_order_and_do_not_depend_on_neighbours(real):
    rows = [{"prompt": PROMPT * n, "response": RESPONSE[: 9 * n]} for n in (3, 0, 1)] + [{"prompt": "a", "response": ""}]
    settings = TokenizeSettings(max_length=40)
    together = tokenize_examples(rows, real, settings)
    assert together == [one(row, real, settings) for row in rows]
    assert tokenize_examples([], real, settings) == []


def test_messages_without_a_template_are_a_configuration_error(real):
    with pytest.raises(ValueError, match=r"model\.chat_template"):
        one(chat(CHATS[0]), real)
    result = one(chat(CHATS[0]), real, TokenizeSettings(max_length=9999, chat_template="chatml"))
    assert [real.eos_token_id] == [
        result.token_ids[position] for position in result.end_of_turn_positions
    ]  # <|im_end|> is no token of theirs
    assert result.token_ids[0] == real.bos_token_id


# With a template


@pytest.mark.parametrize("name", ANY_ORDER + TAKING_TURNS)
def test_every_assistant_turn_and_nothing_else_is_response(name):
    tokenizer = tokenizer_for(name)
    rows = [chat(turns) for turns in CHATS[: 3 if name in ANY_ORDER else 2]] + (real_rows(30) if name in ANY_ORDER else [])
    if name == "gemma":
        rows = rows[1:]  # has no system role
    for row, result in zip(rows, tokenize_examples(rows, tokenizer, ROOMY), strict=True):
        assert isinstance(result, TokenizedSequence), result
        texts = runs(result, tokenizer)
        assert len(texts) == len(spoken(row))
        for text, content in zip(texts, spoken(row), strict=True):
            tail = text.partition(content)[2]
            assert content in text
            assert all(token in tokenizer.all_special_tokens for token in tail.replace("><", "> <").split())
        assert len(re.sub(r"\s+", "", "".join(texts))) < len(re.sub(r"\s+", "", "".join(spoken(row)))) + 60 * len(texts)
        assert result.response_positions[-1] == len(result.token_ids) - 1
        last_is_closer = result.end_of_turn_positions[-1] == len(result.token_ids) - 1
        assert last_is_closer
        assert len(result.end_of_turn_positions) == (1 if name == "glm4moe" else len(texts))
        assert set(result.end_of_turn_positions) <= set(result.response_positions)


@pytest.mark.parametrize("name", [*SAME_AS_TRAINING, *SUPPLIED])
def test_positions_agree_with_the_generation_mask(name):
    tokenizer, plain = tokenizer_for(f"{name}_training"), tokenizer_for(name)
    rows = [chat(CHATS[1])] + ([] if name in TAKING_TURNS else [chat(CHATS[2]), *real_rows(10)])
    for row, result in zip(rows, tokenize_examples(rows, tokenizer, ROOMY), strict=True):
        coded = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = coded["input_ids"], {position for position, flag in enumerate(coded["assistant_masks"]) if flag}
        ours = set(result.response_positions)
        assert mask
        assert result.token_ids == ids[: len(result.token_ids)]
        only_mask = tokenizer.decode([ids[position] for position in sorted(mask - ours)])
        assert re.sub(SUPPLIED.get(name, r"\s"), "", only_mask).strip() == ""
        assert ours <= mask
        assert set(result.end_of_turn_positions) <= mask
        without_tags = one(row, plain)
        if plain.apply_chat_template(row["messages"], tokenize=False) == tokenizer.apply_chat_template(row["messages"], tokenize=False):
            assert without_tags == result


@pytest.mark.parametrize("content", ["", "I will look."])
@pytest.mark.parametrize(
    "name", ["chatml", "qwen2_5", "qwen3", "llama3_1", "glm4moe", "gemma4", "gptoss", "nemotron_3_nano", "lfm2_v2", "muse_glimmer"]
)
def test_tool_calls_are_response_and_tool_results_are_not(name, content):
    tokenizer = tokenizer_for(name)
    messages = [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": content, "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "content": "sunshine everywhere"},
        {"role": "assistant", "content": "Take a hat."},
        {"role": "user", "content": "Thank you"},
        {"role": "assistant", "content": "Gladly."},
    ]
    result = one({"messages": messages, "tools": [TOOL]}, tokenizer)
    assert isinstance(result, TokenizedSequence), result
    first, second, third = runs(result, tokenizer)
    assert "get_weather" in first
    assert "Rome" in first
    assert (content in first) or name in {"gemma4", "gptoss", "llama3_1", "muse_glimmer"}  # which drop or move it
    assert "Take a hat." in second
    assert "Gladly." in third
    assert not any(word in first + second + third for word in ("sunshine", "Weather in", "Thank you"))


def test_history_rewritten_by_the_template_is_found_where_it_is_rendered():
    tokenizer = tokenizer_for("qwen3")  # drops reasoning from earlier turns, adds an empty block to the last
    texts = runs(
        one(chat([("user", "a"), ("assistant", "<think>\nlong\n</think>\n\nfirst"), ("user", "b"), ("assistant", "last")]), tokenizer),
        tokenizer,
    )
    assert texts == ["first<|im_end|>", "<think>\n\n</think>\n\nlast<|im_end|>"]


def test_a_prompt_with_a_template_is_a_user_message():
    tokenizer = tokenizer_for("qwen2_5")
    assert one({"prompt": "Hi?", "response": "Ho!"}, tokenizer) == one(chat([("user", "Hi?"), ("assistant", "Ho!")]), tokenizer)


def test_a_text_template_gets_eos_after_the_last_turn_only():
    tokenizer = templated(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    result = one(chat([("user", "hello"), ("assistant", "fine"), ("user", "you"), ("assistant", "tool")]), tokenizer)
    assert runs(result, tokenizer) == [" fine", " tool</s>"]
    assert result.end_of_turn_positions == [len(result.token_ids) - 1]
    closing = tokenizer.chat_template + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    rendered = one(chat([("user", "hello"), ("assistant", "fine")]), templated(closing))  # one EOS, the template's, not a second one
    assert tokenizer.decode(rendered.token_ids) == "user: hello\nassistant: fine\n</s>"
    assert rendered.end_of_turn_positions == [len(rendered.token_ids) - 1]
    prompting = one(chat([("user", "hello"), ("assistant", "fine")]), templated(tokenizer.chat_template + "<|go|>"))
    assert tokenizer.decode(prompting.token_ids) == "user: hello\nassistant: fine</s>"
    ends_with_user = one(chat([("user", "hello"), ("assistant", "fine"), ("user", "you")]), tokenizer)
    assert tokenizer.decode(ends_with_user.token_ids) == "user: hello\nassistant: fine"
    assert ends_with_user.end_of_turn_positions == []


def test_a_template_without_generation_prompt_counts_no_header():
    tokenizer = templated("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{# <|user|> <|assistant|> #}")
    assert runs(one(chat(CHATS[1][:4]), tokenizer), tokenizer) == ["5<|end|>", "Yes, 5 it is; 5.<|end|>"]


def test_reasoning_counts_where_the_template_has_no_generation_prompt():
    tokenizer = templated("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{# <|user|> <|assistant|> #}")
    texts = runs(
        one(chat([("user", "a"), ("assistant", "<think>b</think>c"), ("user", "d"), ("assistant", "<think>e</think>")]), tokenizer),
        tokenizer,
    )
    assert texts == ["<think>b</think>c<|end|>", "<think>e</think><|end|>"]


def test_white_space_at_the_borders_of_a_turn_goes_with_the_word_it_is_a_token_of():
    template = "{% for m in messages %}{{ '[' + m.role + ': ' + m.content + ('</s> ' if m.role == 'assistant' else ' ') }}{% endfor %}"
    tokenizer = templated(template + "{% if add_generation_prompt %}{{ '[assistant: ' }}{% endif %}")
    result = one(chat([("user", "you"), ("assistant", "fine"), ("user", "you"), ("assistant", "fine")]), tokenizer)
    assert {" fine", " ["} <= set(token_texts(tokenizer))
    assert runs(result, tokenizer) == [" fine</s>", " fine</s>"]
    assert runs(one(chat([("user", "you"), ("assistant", "\nfine")]), tokenizer), tokenizer) == ["\nfine</s>"]


def test_a_closing_token_need_not_be_registered_as_special():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level_json()))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = template_text("qwen2_5")
    result = one(chat(CHATS[1]), tokenizer)
    assert len(result.end_of_turn_positions) == 3
    assert {result.token_ids[position] for position in result.end_of_turn_positions} == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_tags_and_blank_lines_that_steer_the_template_do_no_harm():
    tokenizer = tokenizer_for("qwen3")  # a user message in such tags is no new question to it
    turns = [
        ("user", "a"),
        ("assistant", "<think>\nso\n</think>\n\ncall"),
        ("user", "<tool_response>\n7\n</tool_response>"),
        ("assistant", "seven"),
    ]
    assert runs(one(chat(turns), tokenizer), tokenizer) == [
        "<think>\nso\n</think>\n\ncall<|im_end|>",
        "<think>\n\n</think>\n\nseven<|im_end|>",
    ]
    only_reasoning = [("user", "a"), ("assistant", "<think>\nso\n</think>")]
    assert runs(one(chat(only_reasoning), tokenizer), tokenizer) == ["<think>\nso\n</think>\n\n<|im_end|>"]
    assert runs(one(chat([("user", "a"), ("assistant", "\n  b")]), tokenizer), tokenizer) == ["<think>\n\n</think>\n\n  b<|im_end|>"]


def test_changed_text_is_found_by_generation_tags_or_rejected():
    tags = "{% for m in messages %}<|start|>{% if m.role == 'assistant' %}{% generation %}{{ m.content | upper }}<|end|>{% endgeneration %}"
    tags += "{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
    tokenizer = templated(tags)
    assert runs(one(chat(CHATS[2]), tokenizer), tokenizer) == ["I CALL A TOOL.<|end|>", "IT IS 42.<|end|>", "SO.<|end|>"]
    untagged = templated(re.sub(r"\{% (end)?generation %\}", "", tags))
    assert one(chat(CHATS[2]), untagged).reason == "assistant turn not found in the rendered chat"


def test_todays_date_does_not_reach_the_ids():
    tokenizer = templated(
        "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}<|x|>{{ m.content }}<|end|>{% endfor %}"
    )
    result = one(chat(CHATS[1][:2]), tokenizer)
    assert tokenizer.decode(result.token_ids).startswith("2026-01-0101 Jan 2026<|x|>")


def test_rejections_name_a_countable_reason():
    gemma = tokenizer_for("gemma")
    refused = one(chat(CHATS[0]), gemma)
    assert refused.reason == "template refused the chat"
    assert "System role not supported" in refused.detail
    assert one(chat([("user", "a")]), gemma).reason == "no assistant turn"
    assert one({"messages": []}, gemma).reason == "no assistant turn"
    assert one(chat([("user", "a"), ("assistant", " \n")]), gemma).reason == "empty response"
    assert one({"prompt": "a", "response": ""}, gemma).reason == "empty response"


def test_a_blank_turn_is_context_and_the_others_count():
    tokenizer = tokenizer_for("qwen2_5")
    result = one(chat([("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "yes")]), tokenizer)
    assert runs(result, tokenizer) == ["yes<|im_end|>"]


def test_cutting_a_chat_keeps_whole_turns_closed_and_cut_ones_open():
    tokenizer = tokenizer_for("llama3")
    whole = one(chat(CHATS[1]), tokenizer)
    num_prompt = whole.response_positions[0] - 1  # BOS is written by the template
    for max_length in range(2, len(whole.token_ids) + 2):
        result = one(chat(CHATS[1]), tokenizer, TokenizeSettings(max_length=max_length, min_prompt_tokens=5))
        cut = min(max(0, len(whole.token_ids) - max_length), num_prompt - 5)
        kept = [position - cut for position in whole.response_positions if position - cut < max_length]
        if not kept:
            assert result.reason == "nothing left after truncation"
            assert max_length <= 1 + 5
            continue
        assert result.token_ids == [whole.token_ids[0], *whole.token_ids[1 + cut :]][: kept[-1] + 1]
        assert result.response_positions == kept
        assert result.end_of_turn_positions == [p - cut for p in whole.end_of_turn_positions if p - cut in kept]
        assert (result.num_prompt_tokens_cut, result.num_response_tokens_cut) == (cut, len(whole.response_positions) - len(kept))


# Settings and errors


@pytest.mark.parametrize("wrong", [{"max_length": 1}, {"min_prompt_tokens": -1}, {"chat_template": " "}])
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TokenizeSettings(**wrong)


def test_misuse_raises(tmp_path):
    tokenizer = tokenizer_for("qwen2_5")
    with pytest.raises(ValueError, match="max_length"):
        one({"prompt": "a", "response": "b"}, tokenizer, TokenizeSettings())
    with pytest.raises(ValueError, match="example 0"):
        one({"question": "a"}, tokenizer)
    with pytest.raises(ValueError, match="example 0"):
        one({"messages": ["hello"]}, tokenizer)
    with pytest.raises(ValueError, match="example 0"):
        one({"messages": [{"role": "assistant", "content": 5}]}, tokenizer)
    with pytest.raises(ValueError, match="missing"):
        resolve_chat_template(tokenizer, TokenizeSettings(chat_template=str(tmp_path / "missing.jinja")))
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}")
    with pytest.raises(ValueError, match="Jinja"):
        one({"prompt": "a", "response": "b"}, tokenizer, TokenizeSettings(max_length=99, chat_template=str(broken)))


def test_the_template_in_force():
    tokenizer = tokenizer_for("qwen2_5")
    assert resolve_chat_template(tokenizer, ROOMY) == template_text("qwen2_5")
    assert "<|im_start|>" in resolve_chat_template(tokenizer_for(None), TokenizeSettings(chat_template="chatml"))
    assert resolve_chat_template(tokenizer_for(None), ROOMY) is None


# Token texts


def test_token_texts_concatenate_to_the_text(real):
    texts = token_texts(real)
    ids = real("Tom ran, and  the big dog sat.\nThe end", add_special_tokens=False).input_ids
    assert "".join(texts[i] for i in ids) == " Tom ran, and  the big dog sat.\nThe end"  # the tokenizer's dummy space comes first
    assert len(texts) == len(real)
    assert texts[real.bos_token_id] == real.bos_token


def test_token_texts_of_bytes():
    tokenizer = tokenizer_for("qwen2_5")
    texts = token_texts(tokenizer)
    ids = tokenizer("  The weather, thanks!\n\n<|im_end|>").input_ids
    assert "".join(texts[i] for i in ids) == "  The weather, thanks!\n\n<|im_end|>"
    assert [texts[i] for i in tokenizer("€").input_ids] == ["<0xE2>", "<0x82>", "<0xAC>"]
