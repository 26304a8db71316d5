"""Lines of the jsonl export: an example, its tokens with flags, and its responses with the characters that are kept."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warehouse.characters import Characters, CharactersError


def line(row: Mapping[str, Any], keep: NDArray[np.bool_], weights: NDArray[np.float32] | None, characters: Characters) -> dict[str, Any]:
    """Make the object of a line.

    Args:
        row: a row of sql/export/rows.
        keep: bool, one per token of the sequence.
        weights: float32, one per token of the sequence; None for a mask without soft weights.
        characters: finds the characters of tokens.

    Returns:
        the object.

    Raises:
        CharactersError: the kept characters are not known exactly.
    """
    content = json.loads(row["content"])
    try:
        responses = list(_responses(row, keep, content, characters))
    except CharactersError as error:
        raise CharactersError(f"example {row['example_id']}: {error}") from error
    return {
        **{name: row[name] for name in ("example_id", "branch", "source", "multiplicity")},
        "content": content,
        "token_ids": row["token_ids"],
        "keep": keep.astype(int).tolist(),
        **({} if weights is None else {"weights": weights.tolist()}),
        "responses": responses,
    }


def _responses(
    row: Mapping[str, Any], keep: NDArray[np.bool_], content: Mapping[str, Any], characters: Characters
) -> Iterator[dict[str, Any]]:
    """Give each assistant turn with its kept characters and the fate of its end-of-turn token (None: it has none)."""
    own = _own_texts(content, row["branch"])
    ends = set(row["end_of_turn_positions"])
    turns = _turns(row["response_positions"], ends)
    for number, positions in enumerate(turns):
        said = [position for position in positions if position not in ends]
        is_cut = bool(row["num_response_tokens_cut"]) and number == len(turns) - 1
        message, text = own[number] if number < len(own) else (None, None)
        ids = [row["token_ids"][position] for position in said]
        turn = characters.turn(ids, keep[said].tolist(), text, is_cut)
        yield {
            "message": message,
            "text": turn.text,
            "is_own_text": turn.is_own_text,
            "kept_spans": [list(span) for span in turn.kept_spans],
            "keep_end_of_turn": bool(keep[positions[-1]]) if positions[-1] in ends else None,
        }


def _own_texts(content: Mapping[str, Any], branch: str) -> list[tuple[int | None, str | None]]:
    """List (number of the message, text) of the turns that the example says, in order; for a single prompt, what answers it.

    Returns:
        the turns; one with tool calls has no text of its own, since how the calls are written is the template's.
    """
    answer = content.get("response" if branch == "sft" else branch)
    if isinstance(answer, str):
        return [(None, answer)]
    spoken = [
        (i, m)
        for i, m in enumerate(content.get("messages") or [])
        if m["role"] == "assistant" and (m.get("content") or m.get("tool_calls"))
    ]
    return [(i, m["content"] if isinstance(m.get("content"), str) and not m.get("tool_calls") else None) for i, m in spoken]


def _turns(positions: list[int], ends: set[int]) -> list[list[int]]:
    """Split response positions where a gap or an end-of-turn token lies between them."""
    turns: list[list[int]] = []
    for position in positions:
        if not turns or turns[-1][-1] + 1 < position or turns[-1][-1] in ends:
            turns.append([])
        turns[-1].append(position)
    return turns
