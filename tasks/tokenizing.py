"""Examples to the rows that are stored of their sequences."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from models import chat
from models.files import tokenizer_files
from models.pairs import BRANCHES, TokenizedPair, tokenize_pairs
from models.turns import RejectedExample
from models.vocabulary import token_texts
from tasks.identities import Tokenization
from warehouse import write
from warehouse.preferences import PAIR_BEGINS


def tokenized_rows(waiting: list[Any], how: Tokenization, folder: Path) -> tuple[pa.Table, list[str]]:
    """Tokenize examples.

    Args:
        waiting: (example_id, content) of examples of one kind.
        how: the tokenization.
        folder: the reference model's.

    Returns:
        (rows of `write.SEQUENCE_SCHEMA`: one per example, two per pair; texts of the vocabulary).

    Raises:
        FileNotFoundError: the folder holds no tokenizer.
    """
    from models.reference import load_tokenizer

    if not tokenizer_files(folder):
        raise FileNotFoundError(f"{folder} holds no tokenizer; save the model's own there with tokenizer.save_pretrained")
    tokenizer = load_tokenizer(folder)
    examples = [json.loads(content) for _, content in waiting]
    are_pairs = bool(waiting) and waiting[0][1].startswith(PAIR_BEGINS)
    outcomes = (tokenize_pairs if are_pairs else chat.tokenize_examples)(examples, tokenizer, how.settings)
    rows: list[dict[str, Any]] = []
    for (example_id, _), one in zip(waiting, outcomes, strict=True):
        for branch in BRANCHES if are_pairs else ("sft",):
            sequence = getattr(one, branch) if isinstance(one, TokenizedPair) else one
            rows.append({"example_id": example_id, "branch": branch, **_row(branch, sequence)})
    return pa.Table.from_pylist(rows, schema=write.SEQUENCE_SCHEMA), token_texts(tokenizer)


def _row(branch: str, one: chat.TokenizedSequence | RejectedExample) -> dict[str, Any]:
    if isinstance(one, RejectedExample):
        return {"reason": one.reason, "detail": one.detail}
    return {
        "sequence_id": write.sequence_identity(branch, one.token_ids, one.response_positions, one.end_of_turn_positions),
        "token_ids": one.token_ids,
        "response_positions": one.response_positions,
        "end_of_turn_positions": one.end_of_turn_positions,
        "num_prompt_tokens_cut": one.num_prompt_tokens_cut,
        "num_response_tokens_cut": one.num_response_tokens_cut,
    }
