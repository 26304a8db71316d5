"""Preference examples: a prompt with a chosen and a rejected response, however the columns of a row hold them.

Canonical content is `{"prompt", "chosen", "rejected"}`: texts where all three are, else lists of messages (and `"tools"` where the row has
some), `chosen` and `rejected` holding what follows the prompt. A response may be given as text, as one message, as the messages that
follow the prompt, or as the whole conversation.
"""

from typing import Any, Literal

from warehouse.content import BadRow, build_turn, canonical_json, parsed, parsed_list, quoted, says_something, text_of, turns_of

Kind = Literal["sft", "preference"]
"""What the examples of a data set are: single responses, or pairs."""

PAIR_BEGINS = '{"chosen":'
"""How the content of a pair begins, and no other: keys of canonical JSON are sorted."""

Turns = list[dict[str, Any]]


def build_pair(prompt: Any, chosen: Any, rejected: Any, tools: Any) -> str:
    """Build the content of a pair whose prompt stands in a column of its own.

    Args:
        prompt: text, which is what a user says where the responses are messages, or messages.
        chosen: text, a message, or messages: those behind the prompt, or all.
        rejected: likewise.
        tools: list of tools; none where absent or empty.

    Returns:
        canonical content.

    Raises:
        BadRow: a response is empty, both are equal, or the prompts differ.
    """
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str) and not tools:
        for name, text in (("chosen", chosen), ("rejected", rejected)):
            if not text or text.isspace():
                raise BadRow("empty response", name)
        if chosen == rejected:
            raise BadRow("equal branches")
        return f'{PAIR_BEGINS}{quoted(chosen)},"prompt":{quoted(prompt)},"rejected":{quoted(rejected)}}}'
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else turns_of(prompt, "prompt")
    return _of_turns(asked, _response(chosen, "chosen"), _response(rejected, "rejected"), tools)


def build_pair_after_chat(conversation: Any, chosen: Any, rejected: Any, tools: Any) -> str:
    """Build the content of a pair whose prompt is a conversation, perhaps as JSON text; see `build_pair`."""
    turns = turns_of(conversation, "conversations")
    if not turns:
        raise BadRow("empty conversation")
    return _of_turns(turns, _response(chosen, "chosen"), _response(rejected, "rejected"), tools)


def build_pair_after_instruction(instruction: Any, chosen: Any, rejected: Any, context: Any) -> str:
    """Build the content of a pair whose prompt is an instruction with an input behind it; see `build_pair`."""
    return build_pair(instruction_prompt(instruction, context), chosen, rejected, None)


def build_implicit_pair(chosen: Any, rejected: Any, tools: Any) -> str:
    """Build the content of a pair of conversations: the messages that both begin with are the prompt."""
    if isinstance(chosen, str) and not chosen.lstrip().startswith("["):
        raise BadRow("wrong type", "chosen is text, and there is no prompt; expected messages that begin with it")
    whole, other = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
    return _of_turns(_common(whole, other), whole, other, tools)


def instruction_prompt(instruction: Any, context: Any) -> str:
    """Join an instruction and its input, if it has one, by a blank line."""
    context = text_of("" if context is None else context, "input")
    prompt = text_of(instruction, "instruction")
    return prompt if not context.strip() else f"{prompt}\n\n{context}"


def _response(value: Any, name: str) -> Turns:
    """Read a response as turns: a text is one, an object is one, a list holds several."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return [build_turn(value, name)] if isinstance(value, dict) else turns_of(value, name)


def _common(one: Turns, other: Turns) -> Turns:
    """Return the turns that both conversations begin with."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _of_turns(prompt: Turns, chosen: Turns, rejected: Turns, tools: Any) -> str:
    """Build canonical content of turns; a response that repeats the prompt, or more in front of it, is cut to what follows."""
    if chosen == rejected:
        raise BadRow("equal branches")
    if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif (common := _common(chosen, rejected))[-len(prompt) :] == prompt:  # both have a system message in front, say
        prompt, chosen, rejected = common, chosen[len(common) :], rejected[len(common) :]
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[0]["role"] != "assistant":
            raise BadRow("different prompts", f"{name} goes on with a message from {turns[0]['role']!r} that is not in the prompt")
        if not any(says_something(turn) for turn in turns if turn["role"] == "assistant"):
            raise BadRow("empty response", name)
    if not prompt:
        raise BadRow("different prompts", "chosen and rejected have no message in common")
    content = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    given = parsed_list([] if tools is None or tools == "" else tools, "tools")
    return canonical_json(content | {"tools": [parsed(tool, "tools") for tool in given]} if given else content)
