"""Blocks: some sequences and their tokens, which the arithmetic of masks works through one at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some sequences and their tokens, neighbours or not.

    Attributes:
        sequences: their places.
        tokens: the indices of their tokens.
        lengths: response tokens of each.
    """

    sequences: slice | Integers
    tokens: slice | Integers
    lengths: Integers

    @property
    def num_tokens(self) -> int:
        """Tokens of all."""
        return int(self.tokens.stop - self.tokens.start) if isinstance(self.tokens, slice) else len(self.tokens)

    def indices(self, chosen: Integers) -> Integers:
        """Turn indices into the block's tokens into indices into all."""
        return chosen + self.tokens.start if isinstance(self.tokens, slice) else self.tokens[chosen]

    def per_token(self, per_sequence: NDArray[Any]) -> NDArray[Any]:
        """Repeat what each sequence of the block has for each of its tokens."""
        return np.repeat(per_sequence, self.lengths)
