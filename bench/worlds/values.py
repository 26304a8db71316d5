"""Every column that a selection of tokens may look at, for one damaged data set: ours, and what other methods look at."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bench.worlds.damage import TrainingExample
from bench.worlds.skills import Example, encode
from models.batches import TokenBatch, collate
from models.directions import divergence_gradient, fisher_drift, validation_gradient
from models.fisher import diagonal_fisher, sample_sequences, whole_texts
from models.reference import float32_parameters
from models.scoring import Scorer
from models.settings import FisherSettings, WarmupSettings
from models.training import Sequences, fit

Column = NDArray[np.float64]
SIGNALS = ("margin", "el2n", "grad_norm")


@dataclass(frozen=True)
class TokenTable:
    """The answer tokens of a data set, one entry each.

    Attributes:
        row: number of the training example.
        place: place in the answer, from 0.
        is_bad: whether the damage put the token there.
        is_end: whether it is the end of the turn.
        columns: name to values, NaN where there is none.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    is_bad: NDArray[np.bool_]
    is_end: NDArray[np.bool_]
    columns: Mapping[str, Column]


def encoded(examples: Sequence[TrainingExample] | Sequence[Example]) -> Sequences:
    """Encode prompts and answers."""
    return [encode(one.prompt, one.answer) for one in examples]


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model, so that training it leaves the original."""
    return copy.deepcopy(model)


def score(
    reference: nn.Module,
    train: Sequence[TrainingExample],
    validation: Sequence[Example],
    *,
    warmup_steps: int,
    learning_rate: float,
    seed: int,
) -> TokenTable:
    """Value all answer tokens as the pipeline does, with a warmed-up scoring model, and add the columns of other methods.

    Columns: the four components (stability by the divergence and, behind `drift_`, by the Fisher drift), the signals at the scoring
    model, `ref_loss`; `excess_loss`, the loss at the scoring model minus that of a model fine-tuned on the validation examples (Rho-1);
    `cleaning`, the loss at the reference minus that of the scoring model (Token Cleaning's influence), and `position`.

    Args:
        reference: the pre-trained model.
        train: the training data.
        validation: clean examples of the new skill.
        warmup_steps: steps of the scoring model.
        learning_rate: of the scoring model and of the model on validation examples.
        seed: of both.

    Returns:
        the table.
    """
    rows = encoded(train)
    settings = WarmupSettings(steps=warmup_steps, batch_size=16, learning_rate=learning_rate, seed=seed)
    scoring = fit(copy_of(reference), rows, settings)
    clean = fit(copy_of(reference), encoded(validation), WarmupSettings(steps=40, batch_size=16, learning_rate=learning_rate, seed=seed))
    scope = [name for name, _ in reference.named_parameters()]
    texts = whole_texts(sample_sequences(reference, FisherSettings(num_sequences=256, num_tokens=32, seed=seed)))
    drift = fisher_drift(diagonal_fisher(reference, texts, scope), float32_parameters(scoring), float32_parameters(reference))
    directions = {
        "adapt": validation_gradient(scoring, batches_of(encoded(validation)), scope)[0],
        "stab": divergence_gradient(scoring, reference, batches_of(texts), scope)[0],
        "drift": drift,
    }
    columns = _columns(Scorer(scoring, directions, SIGNALS), rows)
    columns["ref_loss"] = _columns(Scorer(reference, {}), rows)["loss"]
    columns["excess_loss"] = columns["loss"] - _columns(Scorer(clean, {}), rows)["loss"]
    columns["cleaning"] = columns["ref_loss"] - columns["loss"]
    place = np.concatenate([np.arange(len(positions)) for _, positions in rows])
    columns["position"] = place.astype(np.float64)
    return TokenTable(
        row=np.repeat(np.arange(len(rows)), [len(positions) for _, positions in rows]), place=place,
        is_bad=np.concatenate([one.is_bad for one in train]),
        is_end=np.concatenate([np.arange(len(p)) == len(p) - 1 for _, p in rows]), columns=columns,
    )  # fmt: skip


def batches_of(sequences: Sequences, size: int = 64) -> list[TokenBatch]:
    """Pad sequences together, in their order."""
    chunks = [sequences[i : i + size] for i in range(0, len(sequences), size)]
    return [collate([ids for ids, _ in chunk], [positions for _, positions in chunk]) for chunk in chunks]


def _columns(scorer: Scorer, rows: Sequences, size: int = 128) -> dict[str, Column]:
    values = []
    for start in range(0, len(rows), size):
        values += scorer.score(*zip(*rows[start : start + size], strict=True))
    found = {"loss": [v.loss for v in values], "entropy": [v.entropy for v in values]}
    for signal in values[0].signals:
        found[signal] = [v.signals[signal] for v in values]
    for direction in values[0].direct:
        found[f"{direction}_direct"] = [v.direct[direction] for v in values]
        found[f"{direction}_causal"] = [v.causal[direction] for v in values]
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def auroc(column: Column, is_bad: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of telling bad tokens by low values: 1 where every bad token lies below every good one; NaN if all are alike."""
    exists = np.isfinite(column)
    column, is_bad = column[exists], is_bad[exists]
    bad = int(is_bad.sum())
    if bad in (0, len(is_bad)):
        return float("nan")
    ranks = average_ranks(column)
    return float(1 - (ranks[is_bad].sum() - bad * (bad - 1) / 2) / (bad * (len(is_bad) - bad)))


def average_ranks(column: Column) -> Column:
    """Rank values from 0; equal ones share the mean of their ranks."""
    _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]  # type: ignore[no-any-return]
