"""Every column that a selection of tokens may look at, for one damaged data set: ours, and what other methods look at."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

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


@dataclass(frozen=True)
class Valued:
    """A damaged data set and the validation set, valued alike: each fold of the validation set against the direction of the others."""

    train: TokenTable
    held_out: TokenTable


FOLDS = 4


def score(
    reference: nn.Module,
    train: Sequence[TrainingExample],
    validation: Sequence[Example],
    *,
    warmup_steps: int,
    learning_rate: float,
    seed: int,
) -> Valued:
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
        the table of each data set.
    """
    rows, clean_rows = encoded(train), encoded(validation)
    settings = WarmupSettings(steps=warmup_steps, batch_size=16, learning_rate=learning_rate, seed=seed)
    models = _Models(reference, fit(copy_of(reference), rows, settings), fit(
        copy_of(reference), clean_rows, WarmupSettings(steps=40, batch_size=16, learning_rate=learning_rate, seed=seed)
    ))  # fmt: skip
    stability = _stability(models, seed)
    folds = [clean_rows[i::FOLDS] for i in range(FOLDS)]
    values: list[dict[str, Column]] = []
    for i, fold in enumerate(folds):
        others = [row for j, other in enumerate(folds) if j != i for row in other]
        values.append(models.columns(fold, {"adapt": models.adaptation(others), **stability}))
    columns = models.columns(rows, {"adapt": models.adaptation(clean_rows), **stability})
    held_out = {name: np.concatenate([one[name] for one in values]) for name in columns}
    return Valued(
        _table(rows, columns, np.concatenate([one.is_bad for one in train])),
        _table([row for fold in folds for row in fold], held_out, np.zeros(len(held_out["loss"]), dtype=bool)),
    )


@dataclass(frozen=True)
class _Models:
    """The reference, the scoring model, and a model fine-tuned on clean examples."""

    reference: nn.Module
    scoring: nn.Module
    clean: nn.Module

    @property
    def scope(self) -> list[str]:
        """All parameters."""
        return [name for name, _ in self.reference.named_parameters()]

    def adaptation(self, rows: Sequences) -> dict[str, Tensor]:
        """Compute the gradient of the mean loss of clean examples."""
        return validation_gradient(self.scoring, batches_of(rows), self.scope)[0]

    def columns(self, rows: Sequences, directions: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Column]:
        """Compute all columns of some sequences."""
        columns = _columns(Scorer(self.scoring, directions, SIGNALS), rows)
        columns["ref_loss"] = _columns(Scorer(self.reference, {}), rows)["loss"]
        columns["excess_loss"] = columns["loss"] - _columns(Scorer(self.clean, {}), rows)["loss"]
        columns["cleaning"] = columns["ref_loss"] - columns["loss"]
        columns["position"] = np.concatenate([np.arange(len(positions)) for _, positions in rows]).astype(np.float64)
        return columns


def _stability(models: _Models, seed: int) -> dict[str, dict[str, Tensor]]:
    """Make both forms of the stability direction, on text that the reference writes by itself."""
    texts = whole_texts(sample_sequences(models.reference, FisherSettings(num_sequences=256, num_tokens=32, seed=seed)))
    parameters = float32_parameters(models.scoring), float32_parameters(models.reference)
    return {
        "stab": divergence_gradient(models.scoring, models.reference, batches_of(texts), models.scope)[0],
        "drift": fisher_drift(diagonal_fisher(models.reference, texts, models.scope), *parameters),
    }


def _table(rows: Sequences, columns: Mapping[str, Column], is_bad: NDArray[np.bool_]) -> TokenTable:
    lengths = [len(positions) for _, positions in rows]
    place = np.concatenate([np.arange(n) for n in lengths])
    is_end = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    return TokenTable(row=np.repeat(np.arange(len(rows)), lengths), place=place, is_bad=is_bad, is_end=is_end, columns=columns)


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
