"""Padded batches of masked sequences, and of pairs of them, as NumPy arrays that belong to the consumer."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IGNORED_LABEL = -100
"""Label of a position that the loss leaves out (the convention of transformers)."""


@dataclass(frozen=True, eq=False)
class MaskedBatch:
    """Padded sequences with the labels that the mask leaves. The arrays are made for this batch and belong to the consumer.

    Attributes:
        input_ids: int64, [B, T]; right-padded with 0.
        attention_mask: int64, [B, T]; 1 on tokens, 0 on padding.
        labels: int64, [B, T]; the token itself where the mask keeps it, -100 elsewhere and on padding.
        num_supervised: tokens of this batch that the store says have a loss, from SQL: kept, at a position above 0.
        names: Arrow array of the sequences' ids, one per row; empty for a row of filler.
        weights: float32, [B, T]; soft weight of each kept token, 0 elsewhere; None for a mask without soft weights.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    labels: NDArray[np.int64]
    num_supervised: int
    names: pa.Array
    weights: NDArray[np.float32] | None = None

    @property
    def sequence_ids(self) -> tuple[str, ...]:
        """The sequence of each row; empty for a row of filler."""
        return tuple(self.names.to_pylist())

    def tensors(self) -> dict[str, NDArray[Any] | int]:
        """Give what a trainer takes, by name: the arrays that there are, and the counts."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "names"}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class PairBatch(MaskedBatch):
    """Pairs of responses: rows 0 to P - 1 are chosen, rows P to 2P - 1 the rejected ones of the same examples in the same order.

    Attributes:
        response_labels: int64, [B, T]; the token itself where it is a response token with a loss, kept or not, -100 elsewhere.
        ref_log_probs: float32, [B, T]; log-probability of these tokens under the reference model, nats, as stored; 0 elsewhere.
        num_pairs: P, or 0 for filler.
    """

    response_labels: NDArray[np.int64]
    ref_log_probs: NDArray[np.float32]
    num_pairs: int
