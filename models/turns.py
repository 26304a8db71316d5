"""Where the assistant turns of a rendered chat lie, in characters and in tokens.

The chat is rendered once more with a mark in the place of each assistant text; the literal text between the marks must reproduce the real
rendering exactly, which proves where each response lies. Where a turn starts and ends is read from renderings of the messages before it and
up to it, compared **from the previous mark on**, so that a template which rewrites history does no harm.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some templates print today's date; a fixed one keeps the ids, and all that was computed from them, the same tomorrow.
_FIXED_DATE = "{%- macro strftime_now(format) -%}{{ '2026-01-01' if '%Y-%m' in format else '01 Jan 2026' }}{%- endmacro -%}"

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class RejectedExample:
    """An example without a usable sequence: a reason to count by, and a sentence for people."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Draft:
    """A sequence before any cut; ids end with the last response token."""

    ids: list[int]
    response: list[int]
    end_of_turn: list[int]


class _Mark(NamedTuple):
    """What stands in for an assistant text (or the name of its first tool call) while turns are looked for.

    Attributes:
        row: which message.
        mark: text found nowhere else.
        original: what it replaces.
        reasoning: what precedes it in the same message text.
    """

    row: int
    mark: str
    original: str
    reasoning: str


class _RefusedError(Exception):
    """The template raised while rendering."""


def speaks(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is an assistant turn with text or tool calls."""
    return message["role"] == "assistant" and _place_mark(message, "", False) is not None


def _place_mark(message: Mapping[str, Any], mark: str, tools_first: bool) -> tuple[dict[str, Any], str, str] | None:
    """Put a mark in the place of the text after any reasoning, or of the first tool call's name; give what stood there and before it."""
    calls, content = message.get("tool_calls"), message.get("content")
    parts = [{"text": content}] if isinstance(content, str) else list(content or [])
    index = next((index for index, part in enumerate(parts) if str(part.get("text") or "").strip()), None)
    if calls and (tools_first or index is None):
        nested = calls[0].get("function")
        named = {**(nested or calls[0]), "name": mark}
        call = {**calls[0], "function": named} if nested else named
        return {**message, "tool_calls": [call, *calls[1:]]}, str((nested or calls[0]).get("name", "")), ""
    if index is None:
        return None
    reasoning, tag, text = parts[index]["text"].rpartition("</think>")
    parts[index] = {**parts[index], "text": reasoning + tag + mark}
    return {**message, "content": parts[0]["text"] if isinstance(content, str) else parts}, text, reasoning + tag


def _as_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Write a text content as a list of one part."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _blind(message: dict[str, Any]) -> dict[str, Any]:
    """Put a word into the middle of a text that is not the assistant's (tags at its ends may steer the template)."""
    if message["role"] == "assistant" or not message.get("content"):
        return message

    def insert(text: str) -> str:
        return f"{text[: len(text) // 2]}Xq7other{text[len(text) // 2 :]}"

    content = message["content"]
    blind = (
        insert(content)
        if isinstance(content, str)
        else [{**part, "text": insert(part["text"])} if part.get("text") else part for part in content]
    )
    return {**message, "content": blind}


class Chat:
    """One chat, its renderings and where its assistant turns lie.

    Attributes:
        messages: the chat.
        text: its rendering, once `find_turns` was called.
        num_turns: assistant turns that say something.
        num_prompt_turns: those of them that are prompt, the first ones.
    """

    def __init__(self, example: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
        asked = [{"role": "user", "content": example.get("prompt")}, {"role": "assistant", "content": example.get("response")}]
        self.messages: Messages = asked if example.get("messages") is None else list(example["messages"])
        self.text = ""
        self.num_turns = sum(map(speaks, self.messages))
        self.num_prompt_turns = sum(map(speaks, self.messages[: example.get("num_prompt_messages", 0)]))
        self._tokenizer, self._tools = tokenizer, example.get("tools") or None
        self._template = _FIXED_DATE + template if "strftime_now" in template else template

    def find_turns(self) -> list[tuple[int, int]] | RejectedExample | None:
        """Give the characters of every assistant turn; None where only the template's `{% generation %}` can tell."""
        if not any(message["role"] == "assistant" for message in self.messages):
            return RejectedExample("no assistant turn", f"none of the {len(self.messages)} messages is from the assistant")
        if not any(map(speaks, self.messages)):
            return empty()
        ways = [(self.messages, False), (self.messages, True)]
        if "'text'" in self._template or '"text"' in self._template:  # vision templates read lists of parts only
            ways.append(([*map(_as_parts, self.messages)], False))
        refusal = ""
        for messages, tools_first in ways:
            try:
                self.text = self._render(messages)
            except _RefusedError as error:
                refusal = refusal or str(error)
                continue
            if (turns := self._locate(messages, tools_first)) is not None:
                return turns
        if refusal:
            return RejectedExample("template refused the chat", f"the chat template raised: {refusal}")
        self.text = self._render(self.messages)
        return None if re.search(r"\{%-?\s*generation\s*-?%\}", self._template) else not_found(self.text)

    def generation_ranges(self) -> list[tuple[int, int]]:
        """Give the token ranges inside the template's `{% generation %}` blocks."""
        options = {"return_dict": True, "return_assistant_tokens_mask": True, "tokenizer_kwargs": {"verbose": False}}
        coded = self._tokenizer.apply_chat_template(self.messages, tools=self._tools, chat_template=self._template, **options)
        mask = "".join(map(str, coded["assistant_masks"]))
        return [run.span() for run in re.finditer(r"1+", mask)]

    def _render(self, messages: Messages, prompt: bool = False) -> str:
        """Render messages to text; `prompt` adds the template's generation prompt."""
        options = {"tools": self._tools, "chat_template": self._template, "tokenize": False, "add_generation_prompt": prompt}
        try:
            return str(self._tokenizer.apply_chat_template(messages, **options))
        except ImportError:
            raise
        except Exception as error:  # a template is a program run on user data: it may raise anything
            if type(error).__name__ == "TemplateSyntaxError":
                raise ValueError(f"the chat template is not valid Jinja: {error}; correct the file named by model.chat_template") from error
            raise _RefusedError(f"{type(error).__name__}: {error}") from error

    def _locate(self, messages: Messages, tools_first: bool) -> list[tuple[int, int]] | None:
        """Find every speaking assistant turn.

        Args:
            messages: the chat as it was rendered into `text`.
            tools_first: mark the tool call where a turn has both text and calls (for templates that drop or move the text).

        Returns:
            Characters of each turn; None unless the marked rendering, its marks filled in, is the real one, and no turn changes when other
            words are put into the messages that are not the assistant's.
        """
        marked, marks = list(messages), list[_Mark]()
        for row, message in enumerate(messages):
            name = f"Xq7mark{row}q7X"
            if message["role"] == "assistant" and (placed := _place_mark(message, name, tools_first)):
                marked[row] = placed[0]
                marks.append(_Mark(row, name, *placed[1:]))
        pieces, blind = self._pieces(marked, marks), self._pieces([*map(_blind, marked)], marks)
        if not blind or not pieces or not self.text.startswith(pieces[0]):
            return None
        turns, cursor = list[tuple[int, int]](), 0
        for count, mark in enumerate(marks):
            before, after = pieces[count], pieces[count + 1]
            start, prompt = self._turn_start(marked, marks[:count], mark, before)
            closing = self._closing(marked, marks[: count + 1], after, prompt)
            content_start = cursor + len(before)
            forms = (cut(mark.original, chars) for chars in (None, "\n") for cut in (_whole, str.strip, str.lstrip, str.rstrip))
            content = next((form for form in forms if self.text.startswith(form + after, content_start)), None)
            others_inside = not (blind[count].endswith(before[start:]) and blind[count + 1].startswith(after[:closing]))
            if content is None or others_inside:
                return None
            turns.append((cursor + start, content_start + len(content) + closing))
            cursor = content_start + len(content)
        return turns if cursor + len(pieces[-1]) == len(self.text) else None

    def _turn_start(self, marked: Messages, earlier: list[_Mark], mark: _Mark, before: str) -> tuple[int, str]:
        """Find where a turn starts in the text before its mark.

        Returns:
            Where the rendering of the messages before it, generation prompt included, ends; where the template goes on otherwise than its
            generation prompt (which may open a block of reasoning), the difference; where there is no generation prompt, the message's own
            text. And the generation prompt.
        """
        closed, opened = (self._pieces(marked[: mark.row], earlier, prompt)[-1:] for prompt in (False, True))
        if not closed or not opened:
            return len(before.removesuffix(mark.reasoning)), ""
        shared = _num_common(closed[0], opened[0])
        prompt, start = opened[0][shared:], _num_common(opened[0], before)
        names_tool = mark.mark in str(marked[mark.row].get("tool_calls"))
        known = start >= shared if prompt else names_tool and start == len(opened[0])
        return (start if known else len(before.removesuffix(mark.reasoning))), prompt

    def _closing(self, marked: Messages, marks: list[_Mark], after: str, prompt: str) -> int:
        """Give how many of the characters after a mark belong to its turn: what is there whatever message comes next."""
        messages = marked[: marks[-1].row + 1]
        for opened in self._pieces(messages, marks, True)[-1:]:
            if after.startswith(opened.removesuffix(prompt)):
                return len(opened.removesuffix(prompt))
        return max((_num_common(closed, after) for closed in self._pieces(messages, marks)[-1:]), default=0)

    def _pieces(self, marked: Messages, marks: list[_Mark], prompt: bool = False) -> list[str]:
        """Render and split at the first occurrence of each mark, in order; empty if the template refuses or drops a mark."""
        try:
            text = self._render(marked, prompt)
        except _RefusedError:
            return []
        pieces = list[str]()
        for mark in marks:
            piece, found, text = text.partition(mark.mark)
            if not found:
                return []
            pieces.append(piece)
        pieces.append(text)
        for mark in marks:  # a template may repeat a tool's name further on
            pieces = [piece.replace(mark.mark, mark.original) for piece in pieces]
        return pieces


class Tokens:
    """The tokens of one rendered chat and the characters they cover."""

    def __init__(self, text: str, ids: list[int], offsets: list[tuple[int, int]], controls: Mapping[int, tuple[str, bool]]) -> None:
        self._text, self._ids = text, ids
        self._starts: list[int] = []
        self._ends = [end for _, end in offsets]
        self._controls: dict[int, bool] = {}  # index of a control token -> whether it is a special one
        for index, (start, end) in enumerate(offsets):
            content, special = controls.get(ids[index], ("", False))
            if content.strip() and text[start:end].strip() == content.strip():
                self._controls[index], self._ends[index] = special, start + len(content)
            previous = offsets[index - 1][1] if index else 0
            # Byte-level tokenizers may report a token without its leading space.
            self._starts.append(previous if text[previous:start].isspace() else start)

    def range_of(self, start: int, end: int) -> tuple[int, int]:
        """Find the tokens of a turn.

        Returns:
            First token and the one after the last: those that start inside `[start, end)`. A token that crosses a border with white space
            only on the one side goes to the other; a control token, which has no halves, to the turn at its start, to what follows at its end.
        """
        first, stop = bisect_left(self._starts, start), bisect_left(self._starts, end)
        if first and self._ends[first - 1] > start:
            outside, inside = self._text[self._starts[first - 1] : start], self._text[start : self._ends[first - 1]]
            first -= (outside.isspace() and not inside.isspace()) or first - 1 in self._controls
        while (
            stop > first
            and self._ends[stop - 1] > end
            and (stop - 1 in self._controls or self._text[self._starts[stop - 1] : end].isspace())
        ):
            stop -= 1
        return first, stop

    def draft(self, ranges: Iterable[tuple[int, int]], eos: int | None, ends_with_response: bool) -> Draft:
        """Make a sequence of the turns' tokens, each up to its end-of-turn token or, without one, its last visible token."""
        response, end_of_turn, first = list[int](), list[int](), 0
        for first, stop in ranges:
            last, closed = self._last_of_turn(first, stop)
            response += range(first, last + 1)
            end_of_turn += [last] if closed else []
        ids = self._ids[: response[-1] + 1]
        if eos is None or not ends_with_response or end_of_turn[-1:] == response[-1:]:
            return Draft(ids, response, end_of_turn)
        visible = next((index for index in range(len(ids), len(self._ids)) if not self._is_blank(index)), len(ids))
        if self._ids[visible : visible + 1] == [eos]:  # the template closes the chat, not the turn
            ids = self._ids[:visible]
        return Draft([*ids, eos], [*response, *range(response[-1] + 1, len(ids) + 1)], [*end_of_turn, len(ids)])

    def _last_of_turn(self, first: int, stop: int) -> tuple[int, bool]:
        """Give the last token of a turn and whether it closes it: a special token, or else a control token, that only white space follows."""
        for accepted in ((True,), (True, False)):
            last = stop - 1
            while last > first and self._is_blank(last):
                last -= 1
            if last >= first and self._controls.get(last) in accepted:
                return last, True
        return last, False

    def _is_blank(self, index: int) -> bool:
        return index not in self._controls and not self._text[self._starts[index] : self._ends[index]].strip()


def empty() -> RejectedExample:
    """Reject an example that says nothing."""
    return RejectedExample("empty response", "every response is empty or white space")


def not_found(text: str) -> RejectedExample:
    """Reject a chat whose responses cannot be located in its rendering."""
    return RejectedExample(
        "assistant turn not found in the rendered chat",
        f"the chat template renders {len(text)} characters in which the assistant messages do not stand as they were given; a template with "
        "{% generation %} blocks, or another one, may do",
    )


def _num_common(left: str, right: str) -> int:
    """Count the leading characters that two texts share."""
    if right.startswith(left):
        return len(left)
    return next((index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _whole(text: str, _chars: str | None) -> str:
    return text
