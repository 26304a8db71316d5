"""Columns of token values as flat arrays: read from the lists of the warehouse once, put aside, given back in blocks of sequences.

200 million tokens of four columns take 3.2 GB. The whole of one column is in memory at a time; those put aside stay there up to 512 MB
together and go to files beyond that.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse.connect import Warehouse
from warehouse.policy_settings import DIRECTIONAL

Integers = NDArray[np.int64]
T = TypeVar("T")

_BLOCK_TOKENS = 1 << 19
_BATCH_SEQUENCES = 8192
_HELD_BYTES = 512 << 20


@dataclass(frozen=True)
class Block:
    """Neighbouring sequences and their tokens.

    Attributes:
        sequences: their places.
        tokens: the range of their tokens.
        lengths: response tokens of each.
    """

    sequences: slice
    tokens: slice
    lengths: Integers

    @property
    def num_tokens(self) -> int:
        """Tokens of all."""
        return int(self.tokens.stop - self.tokens.start)

    def per_token(self, per_sequence: NDArray[Any]) -> NDArray[Any]:
        """Repeat what each sequence of the block has for each of its tokens."""
        return np.repeat(per_sequence, self.lengths)


class TokenColumns:
    """The sequences of mask_sequences and flat columns of their response tokens, in the order of `place`.

    Attributes:
        warehouse: the open warehouse.
        lengths: response tokens of each sequence.
        starts: index of the first token of each.
        numbers: its ordinal by sequence_id.
        sources: ordinal of its source.
        num_tokens: tokens of all.
        weights: where the examples are pairs, what the values of a direction are multiplied by (ω); None otherwise.
        num_workers: threads that `each` uses.
    """

    def __init__(self, warehouse: Warehouse, folder: Path, first_rows: Mapping[str, int]) -> None:
        """Read the sequences; no values yet.

        Args:
            warehouse: the open warehouse, with mask_sequences.
            folder: an empty folder for the columns.
            first_rows: per group of values (`write.GROUPS`), the row of its table before which no sequence lies.
        """
        self.warehouse, self._folder, self._first_rows = warehouse, folder, first_rows
        self._held: dict[str, NDArray[Any]] = {}
        self._lock = Lock()
        self._types: dict[str, np.dtype[Any]] = {}
        found = warehouse.run("masks/read_sequences").fetchnumpy()
        self.numbers, self.sources, self.lengths = (
            np.asarray(found[name], dtype=np.int64) for name in ("number", "source_number", "num_tokens")
        )
        self.starts: Integers = np.cumsum(self.lengths) - self.lengths
        self.num_tokens = int(self.lengths.sum())
        self.weights: NDArray[np.float64] | None = None
        if warehouse.pointer("beta") is not None:
            self.weights = np.asarray(warehouse.run("masks/read_weights").fetchnumpy()["weight"], dtype=np.float64)
        self.num_workers = int(warehouse.con.execute("SELECT current_setting('threads')").fetchall()[0][0])

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of about half a million tokens, in order; one of a single longer sequence."""
        begin, size = 0, len(self.lengths)
        while begin < size:
            start = int(self.starts[begin])
            end = max(begin + 1, int(np.searchsorted(self.starts, start + _BLOCK_TOKENS)))
            stop = int(self.starts[end]) if end < size else self.num_tokens
            yield Block(slice(begin, end), slice(start, stop), self.lengths[begin:end])
            begin = end

    def each(self, work: Callable[[Block], T]) -> list[T]:
        """Do something to every block, on several threads, and return the results in order; NumPy and DuckDB compute without the GIL."""
        with ThreadPoolExecutor(self.num_workers) as pool:
            return list(pool.map(work, self.blocks()))

    def read_values(self, name: str) -> NDArray[np.float32]:
        """Read a stored column; NaN where it is NULL."""
        group = {"adapt": "adapt", "stab": "stab", "ref": "ref_signals"}.get(name.partition("_")[0], "signals")
        flat = np.full(self.num_tokens, np.nan, np.float32)
        return self.read("masks/read_column", flat, name=name, first_row=self._first_rows[group])

    def weighted(self, name: str, flat: NDArray[np.float32]) -> NDArray[np.floating]:
        """Multiply values of a direction by the weights of their sequences, in float64; anything else is returned as it is."""
        if self.weights is None or name not in DIRECTIONAL:
            return flat
        return flat * np.repeat(self.weights, self.lengths)

    def read(self, statement: str, flat: NDArray[Any], **parameters: Any) -> NDArray[Any]:
        """Fill a flat array from lists.

        Args:
            statement: an SQL file that gives (place, list) of each sequence; a list that is NULL leaves its tokens as they are.
            flat: [T], where the values go; NULLs among them become NaN.
            parameters: of the statement.

        Returns:
            flat.

        Raises:
            ValueError: a list is not as long as its response.
        """
        for batch in self.warehouse.batches(statement, _BATCH_SEQUENCES, **parameters):
            places, lists = batch.columns
            if lists.null_count:
                valid = lists.is_valid()
                places, lists = places.filter(valid), lists.filter(valid)
            self._place(flat, places.to_numpy(), lists)
        return flat

    def _place(self, flat: NDArray[Any], places: Integers, lists: pa.ListArray) -> None:
        offsets = lists.offsets.to_numpy()
        sizes = np.diff(offsets)
        if not np.array_equal(sizes, self.lengths[places]):
            raise ValueError(
                f"{self.warehouse.folder}: values of {int((sizes != self.lengths[places]).sum())} sequences are not as many as their response "
                "tokens; the warehouse is damaged: value the tokens again in a new warehouse.path"
            )
        values = lists.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False) if len(lists) else np.empty(0)
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            start = int(self.starts[places[0]])
            flat[start : start + len(values)] = values
        else:
            flat[np.repeat(self.starts[places] - (offsets[:-1] - offsets[0]), sizes) + np.arange(len(values))] = values

    def keep(self, name: str, flat: NDArray[Any]) -> None:
        """Put a column aside; it is not to be changed any more."""
        self._types[name] = flat.dtype
        with self._lock:  # columns are made by several threads
            self._held.pop(name, None)
            if flat.nbytes + sum(held.nbytes for held in self._held.values()) <= _HELD_BYTES:
                self._held[name] = flat
                return
        with (self._folder / name).open("wb") as file:  # numpy's tofile hides why it failed
            file.write(np.ascontiguousarray(flat).data)

    def of(self, name: str, block: Block) -> NDArray[Any]:
        """Read a column's values of a block; they are not to be changed."""
        if name in self._held:
            return self._held[name][block.tokens]
        kind = self._types[name]
        return np.fromfile(self._folder / name, kind, block.num_tokens, offset=kind.itemsize * block.tokens.start)

    def some(self, name: str, tokens: Integers) -> NDArray[Any]:
        """Read a column's values of a few tokens."""
        column = self._held[name] if name in self._held else np.memmap(self._folder / name, self._types[name], "r")
        return np.asarray(column[tokens])
