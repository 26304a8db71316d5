"""A stream as an `IterableDataset` of Hugging Face's datasets, for trainers that take one: rows without padding, resumed without replay."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from datasets.iterable_dataset import _BaseExamplesIterable

from warehouse.stream import START, Cursor, MaskedStream

_FEATURES = datasets.Features({"input_ids": datasets.List(datasets.Value("int64")), "labels": datasets.List(datasets.Value("int64"))})


def as_dataset(stream: MaskedStream, cursor: Cursor = START, epochs: int | None = None) -> datasets.IterableDataset:
    """Make a data set of the sequences that a stream delivers, in its order.

    Its `state_dict` is a place in the stream: `load_state_dict` goes on there without producing what came before, while a data set of a
    generator would. Rows of filler are left out, so ranks may differ by a row. A trainer that shares a data set among its processes by
    itself (as those on accelerate do) needs a stream of rank 0 of 1.

    Args:
        stream: the stream.
        cursor: where it begins.
        epochs: epochs of the whole run, those before the cursor included; None = endless.

    Returns:
        rows of `input_ids` and `labels` (the id where the mask keeps the token, -100 elsewhere).

    Raises:
        ValueError: the stream is of pairs, or has soft weights, which its rows could not tell.
    """
    if stream.has_pairs or stream.has_weights:
        what = "pairs of responses" if stream.has_pairs else "soft weights"
        raise ValueError(
            f"the stream has {what}, which rows of input_ids and labels cannot carry: take the batches of the stream itself, or "
            f"`alphatoken export --format {'trl-dpo' if stream.has_pairs else 'parquet'}`"
        )
    return datasets.IterableDataset(_Rows(stream, cursor, epochs), info=datasets.DatasetInfo(features=_FEATURES))


class _Rows(_BaseExamplesIterable):  # type: ignore[misc]  # datasets ships without types; the one base its own examples have
    """Rows of the batches of a stream; the state names the batch and how many of its rows were delivered."""

    def __init__(self, stream: MaskedStream, cursor: Cursor, epochs: int | None) -> None:
        super().__init__()
        self._stream, self._cursor, self._epochs = stream, cursor, epochs

    def __iter__(self) -> Iterator[tuple[str, dict[str, list[int]]]]:
        """Go on at the state.

        Yields:
            (name of the place, row).
        """
        state = self._state_dict or self._init_state_dict()
        place = Cursor(state["epoch"], state["batch"])
        if self._epochs is not None and place.epoch >= self._epochs:
            return
        for batch, after in self._stream.batches(place, self._epochs):
            lengths = batch.attention_mask.sum(axis=1) if len(batch.names) else np.zeros(0, np.int64)
            for row in range(state["row"], len(lengths)):
                state["row"] = row + 1
                if row + 1 == len(lengths):
                    state |= {"epoch": after.epoch, "batch": after.batch, "row": 0}
                ids, labels = (part[row, : lengths[row]].tolist() for part in (batch.input_ids, batch.labels))
                yield f"{place.epoch}-{place.batch}-{row}", {"input_ids": ids, "labels": labels}
            state |= {"epoch": after.epoch, "batch": after.batch, "row": 0}
            place = after

    @property
    def is_typed(self) -> bool:
        """Whether rows need no conversion to the features."""
        return True

    @property
    def features(self) -> datasets.Features:
        """Columns and their types."""
        return _FEATURES

    @property
    def num_shards(self) -> int:
        """Parts that workers could share: one, since the stream has one order."""
        return 1

    def shuffle_data_sources(self, generator: np.random.Generator) -> "_Rows":
        """Stay in order: the stream is shuffled already."""
        return self

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> "_Rows":
        """Refuse to be shared out, except to a single worker.

        Returns:
            itself.

        Raises:
            ValueError: there are several.
        """
        if num_shards != 1:
            raise ValueError(f"a stream is one shard, {num_shards} were asked for: make one stream per rank with rank and world_size")
        return self

    def reshard_data_sources(self) -> "_Rows":
        """Stay one shard."""
        return self

    def load_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Go to a place.

        Returns:
            the state.

        Raises:
            ValueError: the state is of a stream with another mask or other settings, whose places hold other sequences.
        """
        if state_dict["stream"] != self._stream.identity:
            raise ValueError(
                f"the state is of stream {state_dict['stream']}, this one is {self._stream.identity}: resume with the same mask, seed, batch "
                "settings and world_size, or begin anew"
            )
        loaded: dict[str, Any] = super().load_state_dict(state_dict)
        return loaded

    def _init_state_dict(self) -> dict[str, Any]:
        """Begin where the data set begins."""
        state = {"epoch": self._cursor.epoch, "batch": self._cursor.batch, "row": 0, "stream": self._stream.identity}
        self._state_dict: dict[str, Any] | None = {**state, "type": type(self).__name__}
        return self._state_dict
