"""A cell's data valued by the product: files and a configuration are written, `value_tokens` runs, and a release is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from bench.real.data import LENGTHS, MIN_PROMPT_TOKENS, Example, Split, bad_tokens, write_rows
from models.reference import load_tokenizer
from warehouse.read import Reader

BASELINES = Path(__file__).parents[2] / "examples" / "baselines.yaml"
COLUMNS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss", "entropy", "el2n", "grad_norm")
Weights = list[list[float]]


@dataclass(frozen=True)
class Valued:
    """What the product says of the training rows, in their order.

    Attributes:
        sequences: (token ids, response positions).
        is_bad: per row, whether each response token holds part of a corrupted word.
        columns: stored values of all response tokens, row by row; NaN where there is none.
        is_end: whether a token is the end of its turn.
        row: number of the row of each response token.
        weights: per policy and row, what each response token weighs: 0 where the mask leaves it out.
        kept: share of the tokens that each policy keeps.
        seconds: per stage of `value_tokens`.
    """

    sequences: list[tuple[list[int], list[int]]]
    is_bad: list[list[bool]]
    columns: Mapping[str, NDArray[np.float64]]
    is_end: NDArray[np.bool_]
    row: NDArray[np.int64]
    weights: Mapping[str, Weights]
    kept: Mapping[str, float]
    seconds: Mapping[str, float]


def configuration(model: str, base: Path, rate: float, seed: int) -> dict[str, Any]:
    """Write a cell's configuration: the policies are those of examples/baselines.yaml."""
    return {
        "data": {
            "train": "train.jsonl", "validation": "validation.jsonl",
            "tokenize": {"separator": "\n", "max_length": LENGTHS[model], "min_prompt_tokens": MIN_PROMPT_TOKENS},
        },
        "model": {"reference": str(base), "device": "cpu"},
        "scoring": {
            "warmup": {"steps": 40, "batch_size": 8, "learning_rate": rate, "seed": seed}, "signals": ["el2n", "grad_norm"],
            "fisher": {"num_sequences": 96, "num_tokens": 96, "seed": seed},
            "propagation": {"last_blocks": 3 if model == "stories260K" else 2},
        },
        "policy": yaml.safe_load(BASELINES.read_text(encoding="utf-8"))["policy"],
    }  # fmt: skip


def value(folder: Path, config: Mapping[str, Any], split: Split, train: list[Example], *, estimator: str = "exact") -> Valued:
    """Value a cell's training rows in a folder of its own; what is valued there already is not valued again.

    Args:
        folder: where files and warehouse lie.
        config: of `configuration`.
        split: whose validation rows make the direction.
        train: the training rows, perhaps corrupted.
        estimator: `exact`, or `value_propagation`, of which the policy `paper` is taken.

    Returns:
        what the release says.
    """
    from flows.value_tokens import value_tokens

    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "validation.jsonl", split.validation)
    told = dict(config)
    if estimator != "exact":
        told["scoring"] = {**config["scoring"], "estimator": estimator, "signals": []}
        told["policy"] = {"default": {}}
    file, told_before = folder / "alphatoken.yaml", folder / "valued.json"
    state = json.dumps([told, [(one.prompt, one.response) for one in train]], sort_keys=True)
    if not told_before.is_file() or json.loads(told_before.read_text(encoding="utf-8"))["state"] != state:
        file.write_text(yaml.safe_dump(told), encoding="utf-8")
        done = value_tokens(str(file))
        told_before.write_text(json.dumps({"state": state, "seconds": done.counts["stage_seconds"]}), encoding="utf-8")
    seconds = json.loads(told_before.read_text(encoding="utf-8"))["seconds"]
    with Reader(folder / "alphatoken-warehouse") as reader:
        return _read(reader, Path(config["model"]["reference"]), train, seconds)


def _read(reader: Reader, base: Path, train: list[Example], seconds: Mapping[str, float]) -> Valued:
    rows = reader.sql(
        "SELECT (e.extra ->> '$.row')::BIGINT AS number, s.example_id, s.token_ids, s.response_positions, s.end_of_turn_positions "
        "FROM sequences AS s JOIN examples AS e USING (example_id) ORDER BY number"
    ).to_dicts()
    sequences = [(row["token_ids"], row["response_positions"]) for row in rows]
    used = [train[row["number"]] for row in rows]
    names = ", ".join(COLUMNS)
    values = reader.sql(
        f"SELECT {names} FROM token_values AS v JOIN examples AS e USING (example_id) ORDER BY (e.extra ->> '$.row')::BIGINT, position"
    )
    masks = reader.sql(
        "SELECT policy, (e.extra ->> '$.row')::BIGINT AS number, list(weight ORDER BY position) AS weights "
        "FROM token_masks JOIN examples AS e USING (example_id) GROUP BY ALL ORDER BY policy, number"
    ).to_dicts()
    weights: dict[str, Weights] = {}
    for mask in masks:
        weights.setdefault(mask["policy"], []).append(mask["weights"])
    ends = [position in row["end_of_turn_positions"] for row in rows for position in row["response_positions"]]
    return Valued(
        sequences, _truth(used, sequences, load_tokenizer(base)), {name: values[name].cast(float).to_numpy() for name in COLUMNS},
        np.array(ends), np.repeat(np.arange(len(rows)), [len(positions) for _, positions in sequences]), weights,
        {policy: float(np.mean([w > 0 for one in of for w in one])) for policy, of in weights.items()}, seconds,
    )  # fmt: skip


def _truth(examples: list[Example], sequences: list[tuple[list[int], list[int]]], tokenizer: Any) -> list[list[bool]]:
    """Bring the corrupted characters of each row to its tokens, after checking that they are the stored ones."""
    found = []
    for one, (ids, positions) in zip(examples, sequences, strict=True):
        encoded = tokenizer(one.response, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        flags = bad_tokens(one, encoded["offset_mapping"])
        own = [ids[p] for p in positions]
        assert own[: len(encoded["input_ids"])] == encoded["input_ids"][: len(own)], (
            f"the product tokenizes {json.dumps(one.response)} otherwise"
        )
        found.append([*flags, False][: len(own)])  # the end of the turn is never bad
    return found
