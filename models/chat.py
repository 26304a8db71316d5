"""Examples to token ids and the positions of their response tokens.

Without a chat template, prompt and response are tokenized apart and concatenated. With one, the chat is rendered whole and every assistant
turn is found in the text (models/turns.py). What is too long is cut, and every cut is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from models.turns import Chat, Draft, Messages, RejectedExample, Tokens, empty, not_found, speaks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CODE_VERSION = 1
"""Bumped by hand when the same input would give other ids."""


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """How examples become token ids.

    Attributes:
        max_length: longest sequence, tokens; None is the model's context, which the caller puts in before `tokenize_examples`.
        min_prompt_tokens: prompt tokens (BOS not counted) that a cut leaves before the response itself is cut.
        separator: text between prompt and response where no chat template is in force; belongs to the prompt.
        chat_template: None for the tokenizer's own, "chatml" for the one shipped here, else the path of a Jinja file.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_length: int | None = None
    min_prompt_tokens: int = 16
    separator: str = ""
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(
                f"max_length is {self.max_length}, expected at least 2 tokens: raise it, or leave it out for the model's context"
            )
        if self.min_prompt_tokens < 0:
            raise ValueError(
                f"min_prompt_tokens is {self.min_prompt_tokens}, expected 0 or more: use 0 to let a long response take the whole prompt"
            )
        if self.chat_template is not None and not self.chat_template.strip():
            raise ValueError('chat_template is blank, expected "chatml" or the path of a Jinja file: leave it out for the tokenizer\'s own')


@dataclass(frozen=True)
class TokenizedSequence:
    """One tokenized example.

    Attributes:
        token_ids: ids up to the last response token; what the template writes after it is left out.
        response_positions: ascending 0-based positions of the response tokens.
        end_of_turn_positions: those that close a complete response; none for a response that was cut or that the template does not close.
        num_prompt_tokens_cut: tokens cut from the left, between BOS and the first response token.
        num_response_tokens_cut: response tokens cut from the right, end-of-turn tokens included.
    """

    token_ids: list[int]
    response_positions: list[int]
    end_of_turn_positions: list[int]
    num_prompt_tokens_cut: int
    num_response_tokens_cut: int


def resolve_chat_template(tokenizer: "PreTrainedTokenizerBase", settings: TokenizeSettings) -> str | None:
    """Give the text of the chat template in force, None where there is none.

    A tokenizer with several named templates uses its default one, for chats with tools too.

    Args:
        tokenizer: the model's tokenizer.
        settings: whose `chat_template` names the template.

    Returns:
        Jinja text.

    Raises:
        ValueError: the file cannot be read.
    """
    if settings.chat_template is None:
        return str(tokenizer.get_chat_template()) if tokenizer.chat_template else None
    path = Path(__file__).parent / "templates" / "chatml.jinja" if settings.chat_template == "chatml" else Path(settings.chat_template)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'chat_template is {settings.chat_template!r}, expected "chatml" or the path of a readable Jinja file: {error}'
        ) from error


def tokenize_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", settings: TokenizeSettings
) -> list[TokenizedSequence | RejectedExample]:
    """Tokenize examples, each on its own: the result does not depend on its neighbours.

    Where no template is in force: BOS (if the tokenizer puts it before a text by itself), the ids of prompt + separator, the ids of the
    response, EOS (if it has one). A sentencepiece tokenizer puts its dummy space before the response too, so the first response token is
    "▁The" whatever precedes it: the same id as after a space, and the text decodes with that space. With a template, BOS is there if the
    template writes it, and EOS is put after a last assistant turn that the template leaves unclosed. Control tokens written out in an
    example's text become control tokens, as in transformers.

    Args:
        examples: `{"prompt", "response"}` or `{"messages", "tools"?}`; other keys are ignored.
        tokenizer: a fast tokenizer (offsets are needed).
        settings: with `max_length` set.

    Returns:
        For each example, in order, its sequence or the reason why there is none.

    Raises:
        ValueError: `max_length` missing, a slow tokenizer, an example of another shape, messages without a chat template, a template that is
            not valid Jinja.
    """
    drafts = draft_examples(examples, tokenizer, settings)
    return [draft if isinstance(draft, RejectedExample) else fit(draft, settings, tokenizer.bos_token_id) for draft in drafts]


def draft_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", settings: TokenizeSettings
) -> list[Draft | RejectedExample]:
    """Tokenize examples as `tokenize_examples` does, without any cut.

    Args:
        examples: likewise; `num_prompt_messages` says how many of the messages are prompt, assistant turns among them included.
        tokenizer: likewise.
        settings: likewise.

    Returns:
        For each example, in order, its tokens or the reason why there are none.

    Raises:
        ValueError: as `tokenize_examples`.
    """
    if settings.max_length is None:
        raise ValueError("max_length is None, expected a number of tokens: put the model's context length in before tokenizing")
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, expected a fast one (tokenizer.json), which reports character offsets"
        )
    for row, example in enumerate(examples):
        messages, texts = example.get("messages"), (example.get("prompt"), example.get("response"))
        if not all(isinstance(text, str) for text in texts) if messages is None else not _are_messages(messages):
            raise ValueError(
                f"example {row} has keys {sorted(example)}, expected 'prompt' and 'response' as text, or 'messages' as a list of objects with 'role', "
                "'content' (text or a list of parts) and, for tool calls, 'tool_calls' (a list of objects): correct or drop that row"
            )
    template = resolve_chat_template(tokenizer, settings)
    return _draft_plain(examples, tokenizer, settings) if template is None else _draft_chats(examples, tokenizer, template)


def _are_messages(messages: object) -> bool:
    """Tell whether this is a list of chat messages; what a template makes of them is another question."""

    def are_objects(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)

    return are_objects(messages) and all(
        isinstance(message.get("role"), str)
        and (isinstance(message.get("content"), str | None) or are_objects(message["content"]))
        and (message.get("tool_calls") is None or are_objects(message["tool_calls"]))
        for message in cast("Messages", messages)
    )


def _draft_plain(
    examples: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", settings: TokenizeSettings
) -> list[Draft | RejectedExample]:
    """Tokenize prompt and response apart, two batched calls for all examples."""
    for row, example in enumerate(examples):
        if example.get("messages") is not None:
            raise ValueError(
                f'example {row} has messages, but the tokenizer has no chat template: set model.chat_template to "chatml" or the path of a Jinja file'
            )
    if not examples:
        return []
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    head = [bos] if bos is not None and tokenizer("a").input_ids[:1] == [bos] else []
    tail = [] if eos is None else [eos]
    prompts = tokenizer([example["prompt"] + settings.separator for example in examples], add_special_tokens=False, verbose=False).input_ids
    responses = tokenizer([example["response"] for example in examples], add_special_tokens=False, verbose=False).input_ids
    drafts: list[Draft | RejectedExample] = []
    for example, prompt, response in zip(examples, prompts, responses, strict=True):
        ids = head + prompt + response + tail
        positions = list(range(len(head) + len(prompt), len(ids)))
        drafts.append(Draft(ids, positions, positions[-1:] if tail else []) if example["response"].strip() else empty())
    return drafts


def _draft_chats(
    examples: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[Draft | RejectedExample]:
    """Render each chat whole, then tokenize all renderings in one call."""
    chats = [Chat(example, tokenizer, template) for example in examples]
    found = [chat.find_turns() for chat in chats]
    texts = [chat.text for chat, turns in zip(chats, found, strict=True) if not isinstance(turns, RejectedExample)]
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    coded = tokenizer(texts, **options) if texts else {"input_ids": [], "offset_mapping": []}
    encodings = iter(zip(coded["input_ids"], coded["offset_mapping"], strict=True))
    controls = {token_id: (token.content, token.special) for token_id, token in tokenizer.added_tokens_decoder.items()}
    drafts: list[Draft | RejectedExample] = []
    for chat, turns in zip(chats, found, strict=True):
        if isinstance(turns, RejectedExample):
            drafts.append(turns)
            continue
        tokens = Tokens(chat.text, *next(encodings), controls)
        ranges = chat.generation_ranges() if turns is None else [tokens.range_of(*turn) for turn in turns]
        if chat.num_prompt_turns:
            ranges = ranges[chat.num_prompt_turns :] if len(ranges) == chat.num_turns else []
        eos, ends_with_response = tokenizer.eos_token_id, speaks(chat.messages[-1])
        drafts.append(tokens.draft(ranges, eos, ends_with_response) if any(a < b for a, b in ranges) else not_found(chat.text))
    return drafts


def num_prompt_tokens_to_cut(draft: Draft, settings: TokenizeSettings, bos: int | None) -> int:
    """Count the prompt tokens that have to go for a sequence to fit into `max_length`, or may go: `min_prompt_tokens` stay."""
    assert settings.max_length is not None, "checked by draft_examples"
    return min(max(0, len(draft.ids) - settings.max_length), max(0, draft.response[0] - _num_bos(draft, bos) - settings.min_prompt_tokens))


def _num_bos(draft: Draft, bos: int | None) -> int:
    return int(draft.response[0] > 0 and draft.ids[0] == bos)


def fit(draft: Draft, settings: TokenizeSettings, bos: int | None, cut: int | None = None) -> TokenizedSequence | RejectedExample:
    """Cut a sequence to `max_length`: the prompt from the left, after BOS, down to its minimum, then the end from the right.

    Args:
        draft: the whole sequence.
        settings: with `max_length` set.
        bos: id of the start token.
        cut: prompt tokens to cut; as many as must go when absent.

    Returns:
        the sequence, or the reason why nothing is left.
    """
    assert settings.max_length is not None, "checked by draft_examples"
    num_bos = _num_bos(draft, bos)
    cut = num_prompt_tokens_to_cut(draft, settings, bos) if cut is None else cut
    response = [position - cut for position in draft.response if position - cut < settings.max_length]
    if not response:
        return RejectedExample(
            "nothing left after truncation",
            f"{draft.response[0] - num_bos} prompt and {len(draft.response)} response tokens: with max_length {settings.max_length} and min_prompt_tokens "
            f"{settings.min_prompt_tokens} no response token is left",
        )
    ids = (draft.ids[:num_bos] + draft.ids[num_bos + cut :])[: response[-1] + 1]
    closers = [position - cut for position in draft.end_of_turn if position - cut <= response[-1]]
    return TokenizedSequence(ids, response, closers, cut, len(draft.response) - len(response))
