"""The tokenized sequences of a snapshot, as directions and checks read them."""

from warehouse.connect import Warehouse


class Sequences:
    """The tokenized sequences of snapshots."""

    def __init__(self, warehouse: Warehouse, tokenization_id: str) -> None:
        """Read under one tokenization."""
        self._warehouse = warehouse
        self._tokenization_id = tokenization_id

    def of(self, snapshot_id: str) -> list[tuple[str, list[int], list[int]]]:
        """Return (sequence_id, token ids, response positions) of a snapshot's distinct sequences, sorted by sequence_id."""
        rows = self._warehouse.run("tokenize/fetch_sequences", snapshot_id=snapshot_id, tokenization_id=self._tokenization_id).fetchall()
        return sorted({row[2]: (row[2], row[3], row[4]) for row in rows}.values())

    def prompts(self, snapshot_id: str) -> list[list[int]]:
        """Return the distinct prompts of a snapshot: the tokens before each sequence's first response token, sorted."""
        return [list(prompt) for prompt in sorted({tuple(ids[: positions[0]]) for _, ids, positions in self.of(snapshot_id)})]
