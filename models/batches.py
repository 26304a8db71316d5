"""Batches of token sequences: the plan that fixes which sequences share a batch, and padding."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Sequences as the rows of a padded rectangle, or one behind the other in a single row.

    Attributes:
        input_ids_BT: int64, [B, T]; padding holds id 0.
        attention_mask_BT: int64, [B, T]; 1 on tokens, 0 on padding.
        weights_BT: float32, [B, T]; the weight w_u of each token in the objective (DESIGN 3): 1 on response tokens, 0 elsewhere.
        padded_left: whether padding may stand before the tokens. Behind them it needs no mask: causal attention never looks there.
        packed_lengths: lengths of the sequences that share the one row, without padding; None for padded rows.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    weights_BT: Tensor
    padded_left: bool = False
    packed_lengths: tuple[int, ...] | None = None

    @property
    def position_ids_BT(self) -> Tensor:
        """Positions of the tokens in their sequences (int64, [B, T]), so that padding and neighbours change nothing."""
        if self.packed_lengths is not None:
            ranges = [torch.arange(length, device=self.input_ids_BT.device) for length in self.packed_lengths]
            return torch.cat(ranges)[None]
        if self.padded_left:
            return (self.attention_mask_BT.cumsum(-1) - 1).clamp_min(0)
        return torch.arange(self.input_ids_BT.shape[1], device=self.input_ids_BT.device).expand(self.input_ids_BT.shape)

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Copy to a device."""
        return self.map(lambda tensor_BT: tensor_BT.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """Apply a function to every tensor."""
        return replace(
            self,
            input_ids_BT=function(self.input_ids_BT),
            attention_mask_BT=function(self.attention_mask_BT),
            weights_BT=function(self.weights_BT),
        )

    def places(self, lengths: Sequence[int]) -> list[tuple[int, slice]]:
        """Say where each sequence lies: (row, columns)."""
        width = self.input_ids_BT.shape[1]
        if self.packed_lengths is not None:
            ends = list(accumulate(lengths))
            return [(0, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
        firsts = [width - length if self.padded_left else 0 for length in lengths]
        return [(row, slice(first, first + length)) for row, (first, length) in enumerate(zip(firsts, lengths, strict=True))]


def collate(
    token_ids: Sequence[Sequence[int]], response_positions: Sequence[Sequence[int]], *, pad_left: bool = False, packed: bool = False
) -> TokenBatch:
    """Put sequences into a batch and mark their response tokens.

    Args:
        token_ids: ids of each sequence, at least one sequence, none empty.
        response_positions: 0-based positions of the response tokens of each sequence.
        pad_left: put the padding before the tokens instead of behind them.
        packed: no padding: all sequences in one row, one behind the other.

    Returns:
        the batch on the CPU; response tokens have weight 1.
    """
    assert not (pad_left and packed), "a packed row has no padding"
    lengths = [len(ids) for ids in token_ids]
    shape = (1, sum(lengths)) if packed else (len(lengths), max(lengths))
    batch = TokenBatch(
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape),
        pad_left,
        tuple(lengths) if packed else None,
    )
    for (row, columns), ids, positions in zip(batch.places(lengths), token_ids, response_positions, strict=True):
        batch.input_ids_BT[row, columns] = torch.as_tensor(ids)
        batch.attention_mask_BT[row, columns] = 1
        batch.weights_BT[row, torch.as_tensor(positions, dtype=torch.long) + columns.start] = 1.0
    return batch


def plan_batches(lengths: Iterable[tuple[str, int]], batch_tokens: int) -> list[list[str]]:
    """Group sequences into batches of at most `batch_tokens` padded tokens.

    The plan depends on the contents alone: sequences are sorted by length, then by id, longest first, so that neighbours need
    little padding and a lack of memory shows in the first batch. A sequence longer than the budget gets a batch of its own.

    Args:
        lengths: (sequence_id, number of tokens) in any order.
        batch_tokens: budget in tokens, padding counted.

    Returns:
        sequence ids of each batch.
    """
    batches: list[list[str]] = []
    width = 0
    for sequence_id, length in sorted(lengths, key=lambda item: (-item[1], item[0])):
        if not batches or width * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            width = length
        batches[-1].append(sequence_id)
    return batches
