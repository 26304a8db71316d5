"""The tokenized sequences of a snapshot, as directions and checks read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasks import identities
from warehouse.connect import Warehouse

Sequence_ = tuple[str, list[int], list[int]]
"""(sequence_id, token ids, response positions)."""


@dataclass(frozen=True)
class Snapshot:
    """The sequences of a snapshot.

    Attributes:
        rows: (example_id, branch, sequence_id, token ids, response positions) of every branch that became a sequence.
    """

    rows: Sequence[tuple[Any, ...]]

    @cached_property
    def sequences(self) -> list[Sequence_]:
        """The distinct sequences, sorted by sequence_id."""
        return _distinct(self.rows)

    @cached_property
    def to_imitate(self) -> list[Sequence_]:
        """The distinct sequences without those of rejected responses, sorted by sequence_id."""
        return _distinct([row for row in self.rows if row[1] != "rejected"])

    @cached_property
    def pairs(self) -> list[tuple[Sequence_, Sequence_]]:
        """The distinct pairs (chosen, rejected), sorted; none where the examples are single responses."""
        by_id = {one[0]: one for one in self.sequences}
        return [(by_id[chosen], by_id[rejected]) for chosen, rejected in identities.pairs_of([row[:3] for row in self.rows])]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The distinct prompts: the tokens before each sequence's first response token, sorted."""
        return [list(prompt) for prompt in sorted({tuple(ids[: positions[0]]) for _, ids, positions in self.sequences})]

    def as_objective(self, beta: float, reference_digest: str) -> list[str]:
        """Say what the loss on these examples depends on; see `identities.objective`."""
        return identities.objective([row[:3] for row in self.rows], beta, reference_digest)


def _distinct(rows: Sequence[tuple[Any, ...]]) -> list[Sequence_]:
    return sorted({row[2]: (row[2], row[3], row[4]) for row in rows}.values())


class Sequences:
    """The tokenized sequences of snapshots."""

    def __init__(self, warehouse: Warehouse, tokenization_id: str) -> None:
        """Read under one tokenization."""
        self._warehouse = warehouse
        self._tokenization_id = tokenization_id

    def of(self, snapshot_id: str) -> Snapshot:
        """Read the sequences of a snapshot."""
        rows = self._warehouse.run("tokenize/fetch_sequences", snapshot_id=snapshot_id, tokenization_id=self._tokenization_id).fetchall()
        return Snapshot([row[:5] for row in rows])
