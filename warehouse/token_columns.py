"""Columns of token values as flat arrays: read from the lists of the warehouse once, put aside, given back in blocks of sequences.

200 million tokens of four columns take 3.2 GB. Columns stay in memory up to 768 MB together; those beyond that are files, which are written
and read a block at a time: mapped pages would count as memory of the process.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
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
_HELD_BYTES = 768 << 20


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


class TokenColumns:
    """The sequences of mask_sequences and flat columns of their response tokens, in the order of `place`.

    Attributes:
        warehouse: the open warehouse.
        lengths: response tokens of each sequence.
        starts: index of the first token of each.
        numbers: its ordinal by sequence_id.
        sources: ordinal of its source.
        num_tokens: tokens of all.
        first_rows: for the contents and each group of values, the row of its table before which no sequence lies.
        weights: where the examples are pairs, what the values of a direction are multiplied by (ω); None otherwise.
        num_workers: threads that `each` uses.
    """

    def __init__(self, warehouse: Warehouse, folder: Path, first_rows: Mapping[str, int], scoring: str = "scoring") -> None:
        """Read the sequences; no values yet.

        Args:
            warehouse: the open warehouse, with mask_sequences.
            folder: an empty folder for the columns.
            first_rows: for the contents and each group of values (`write.GROUPS`), the row of its table before which no sequence lies.
            scoring: name of the pointer to the scoring.
        """
        self.warehouse, self._folder, self.first_rows, self._scoring = warehouse, folder, first_rows, scoring
        self._held: dict[str, NDArray[Any]] = {}
        self._in_memory: set[str] = set()
        self._lock = Lock()
        self._types: dict[str, np.dtype[Any]] = {}
        found = warehouse.run("masks/read_sequences", first_row=first_rows["contents"]).fetchnumpy()
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

    def blocks_of(self, places: Integers) -> Iterator[Block]:
        """Yield blocks of some sequences alone, in the order in which they are given; those without tokens are left out."""
        places = places[self.lengths[places] > 0]
        ends = np.cumsum(self.lengths[places])
        cuts = np.flatnonzero(np.diff(ends // _BLOCK_TOKENS)) + 1
        for members in np.split(places, cuts):
            lengths = self.lengths[members]
            within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield Block(members, np.repeat(self.starts[members], lengths) + within, lengths)

    def each(self, work: Callable[[Block], T]) -> list[T]:
        """Do something to every block, on several threads, and return the results in order; NumPy and DuckDB compute without the GIL."""
        with ThreadPoolExecutor(self.num_workers) as pool:
            return list(pool.map(work, self.blocks()))

    def read_values(self, name: str) -> None:
        """Read a stored column and put it aside; NaN where it is NULL."""
        group = {"adapt": "adapt", "stab": "stab", "ref": "ref_signals"}.get(name.partition("_")[0], "signals")
        self.read(name, "masks/read_column", np.float32, name=name, first_row=self.first_rows[group], scoring=self._scoring)

    def values(self, name: str, block: Block) -> NDArray[np.floating]:
        """Give a column's values of a block; those of a direction times the weights of their sequences, in float64, where there are some."""
        flat: NDArray[np.floating] = self.of(name, block)
        if self.weights is None or name not in DIRECTIONAL:
            return flat
        weighted: NDArray[np.floating] = flat * block.per_token(self.weights[block.sequences])
        return weighted

    def read(self, name: str, statement: str, kind: type[np.generic], /, **parameters: Any) -> None:
        """Read a column from lists and put it aside.

        Args:
            name: of the column.
            statement: an SQL file that gives (place, list) of every sequence once; a list that is NULL makes its tokens NaN, or 0 in a column of
                integers, as does a NULL in a list.
            kind: of the column.
            parameters: of the statement.

        Raises:
            ValueError: a list is not as long as its response, or a sequence has none.
        """
        self._make(name, kind)
        num_read = 0
        for batch in self.warehouse.batches(statement, _BATCH_SEQUENCES, **parameters):
            places, lists = batch.columns
            num_read += len(places)
            if lists.null_count:
                valid = lists.is_valid()
                self._clear(name, places.filter(lists.is_null()).to_numpy())
                places, lists = places.filter(valid), lists.filter(valid)
            self._place(name, places.to_numpy(), lists)
        if num_read != len(self.lengths):
            raise ValueError(
                f"{self.warehouse.folder}: {num_read} of {len(self.lengths)} sequences have a row of {name}; the warehouse is damaged: value the "
                "tokens again in a new warehouse.path"
            )

    def _clear(self, name: str, places: Integers) -> None:
        nothing = np.nan if self._types[name].kind == "f" else 0
        for block in self.blocks_of(places):
            self._write(name, block.tokens, np.full(block.num_tokens, nothing))

    def _place(self, name: str, places: Integers, lists: pa.ListArray) -> None:
        offsets = lists.offsets.to_numpy()
        sizes = np.diff(offsets)
        if not np.array_equal(sizes, self.lengths[places]):
            raise ValueError(
                f"{self.warehouse.folder}: values of {int((sizes != self.lengths[places]).sum())} sequences are not as many as their response "
                "tokens; the warehouse is damaged: value the tokens again in a new warehouse.path"
            )
        values = lists.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False) if len(lists) else np.empty(0)
        if not len(values):
            return
        if np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            start = int(self.starts[places[0]])
            self._write(name, slice(start, start + len(values)), values)
        else:
            self._write(name, np.repeat(self.starts[places] - (offsets[:-1] - offsets[0]), sizes) + np.arange(len(values)), values)

    def fill(self, name: str, kind: type[np.generic], work: Callable[[Block], NDArray[Any]]) -> None:
        """Make a column of what a function gives for each block, on several threads, and put it aside."""
        self._make(name, kind)
        self.each(lambda block: self._write(name, block.tokens, work(block)))

    def keep(self, name: str, flat: NDArray[Any]) -> None:
        """Put a column aside; it is not to be changed any more."""
        if self._reserve(name, flat.dtype):
            self._held[name] = flat
            return
        with (self._folder / name).open("wb", buffering=0) as file:  # numpy's tofile hides why it failed
            self._write_all(file, np.ascontiguousarray(flat))

    def drop(self, name: str) -> None:
        """Forget a column."""
        self._held.pop(name, None)
        self._types.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)

    def _make(self, name: str, kind: type[np.generic]) -> None:
        """Make room for a column: all of its tokens are to be written."""
        if self._reserve(name, np.dtype(kind)):
            self._held[name] = np.empty(self.num_tokens, kind)
        else:
            with (self._folder / name).open("wb") as file:
                file.truncate(self.num_tokens * np.dtype(kind).itemsize)

    def _reserve(self, name: str, kind: np.dtype[Any]) -> bool:
        """Note a column's type; tells whether memory holds it."""
        with self._lock:  # columns are made by several threads
            self._held.pop(name, None)
            self._types[name] = kind
            reserved = sum(self.num_tokens * held.itemsize for one, held in self._types.items() if one in self._in_memory and one != name)
            fits = reserved + self.num_tokens * kind.itemsize <= _HELD_BYTES
            (self._in_memory.add if fits else self._in_memory.discard)(name)
            return fits

    def _write(self, name: str, tokens: slice | Integers, values: Any) -> None:
        """Write some tokens of a column. Files are written by calls: on a full disk a mapped page would kill the process."""
        if name in self._in_memory:
            self._held[name][tokens] = values
            return
        kind = self._types[name]
        starts = np.array([tokens.start]) if isinstance(tokens, slice) else tokens[np.diff(tokens, prepend=-2) != 1]
        ends = np.append(np.flatnonzero(np.diff(tokens) != 1) + 1, len(tokens)) if not isinstance(tokens, slice) else [len(values)]
        data = np.ascontiguousarray(values, kind)
        with (self._folder / name).open("r+b", buffering=0) as file:
            begin = 0
            for start, end in zip(starts.tolist(), ends, strict=True):
                file.seek(start * kind.itemsize)
                self._write_all(file, data[begin:end])
                begin = end

    @staticmethod
    def _write_all(file: FileIO, data: NDArray[Any]) -> None:
        rest = memoryview(data.data).cast("B")
        while len(rest):
            rest = rest[file.write(rest) :]

    def of(self, name: str, block: Block) -> NDArray[Any]:
        """Read a column's values of a block; they are not to be changed."""
        if name in self._in_memory:
            return self._held[name][block.tokens]
        kind = self._types[name]
        if isinstance(block.tokens, slice):
            return np.fromfile(self._folder / name, kind, block.num_tokens, offset=kind.itemsize * block.tokens.start)
        return np.asarray(np.memmap(self._folder / name, kind, "r")[block.tokens])
