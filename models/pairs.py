"""Preference examples to token ids: two sequences behind one prompt.

Each branch is tokenized as an example of its own (models/chat.py). The prompt of both must come out as the same tokens, and is cut for both
alike; a pair in which it does not, or whose branches become the same tokens, is rejected: DPO would compare something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.chat import TokenizedSequence, TokenizeSettings, draft_examples, fit, num_prompt_tokens_to_cut
from models.turns import Draft, RejectedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BRANCHES = ("chosen", "rejected")


@dataclass(frozen=True)
class TokenizedPair:
    """One tokenized preference example: the sequences of both branches, which begin with the same prompt."""

    chosen: TokenizedSequence
    rejected: TokenizedSequence


def tokenize_pairs(
    examples: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", settings: TokenizeSettings
) -> list[TokenizedPair | RejectedExample]:
    """Tokenize preference examples, each on its own.

    Response tokens are those of the branches: assistant turns of the prompt are prompt. What must be cut of the prompt for the longer
    branch is cut for the other, too; responses are cut one by one.

    Args:
        examples: `{"prompt", "chosen", "rejected", "tools"?}`: texts, or lists of messages, the branches holding what follows the prompt.
        tokenizer: a fast tokenizer.
        settings: with `max_length` set.

    Returns:
        For each example, in order, its sequences or the reason why there are none.

    Raises:
        ValueError: as `models.chat.tokenize_examples`.
    """
    drafts = iter(draft_examples([_branch(example, name) for example in examples for name in BRANCHES], tokenizer, settings))
    return [_pair(chosen, rejected, settings, tokenizer.bos_token_id) for chosen, rejected in zip(drafts, drafts, strict=True)]


def _branch(example: Mapping[str, Any], name: str) -> dict[str, Any]:
    prompt = example["prompt"]
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": example[name]}
    return {"messages": [*prompt, *example[name]], "tools": example.get("tools"), "num_prompt_messages": len(prompt)}


def _pair(
    chosen: Draft | RejectedExample, rejected: Draft | RejectedExample, settings: TokenizeSettings, bos: int | None
) -> TokenizedPair | RejectedExample:
    for name, one in zip(BRANCHES, (chosen, rejected), strict=True):
        if isinstance(one, RejectedExample):
            return RejectedExample(one.reason, f"{name}: {one.detail}")
    assert isinstance(chosen, Draft), "looked at just now"
    assert isinstance(rejected, Draft), "looked at just now"
    prompts = [one.ids[: one.response[0]] for one in (chosen, rejected)]
    if prompts[0] != prompts[1]:
        common = next((i for i, (a, b) in enumerate(zip(*prompts, strict=False)) if a != b), min(map(len, prompts)))
        return RejectedExample(
            "prompt differs by branch",
            f"the prompt becomes {len(prompts[0])} tokens before the chosen and {len(prompts[1])} before the rejected response, alike up to token "
            f"{common}: the template writes it anew for what follows, or a token reaches into the response",
        )
    cut = max(num_prompt_tokens_to_cut(one, settings, bos) for one in (chosen, rejected))
    whole, other = (fit(one, settings, bos, cut) for one in (chosen, rejected))
    for name, fitted in zip(BRANCHES, (whole, other), strict=True):
        if isinstance(fitted, RejectedExample):
            return RejectedExample(fitted.reason, f"{name}: {fitted.detail}")
    assert isinstance(whole, TokenizedSequence), "looked at just now"
    assert isinstance(other, TokenizedSequence), "looked at just now"
    if whole.token_ids == other.token_ids and whole.response_positions == other.response_positions:
        return RejectedExample(
            "equal branches",
            f"both responses become the same {len(whole.response_positions)} tokens, of {len(chosen.response)} and {len(rejected.response)} before "
            "the cut: what tells them apart is cut off, or unknown to the tokenizer",
        )
    return TokenizedPair(whole, other)
