"""Columns of token values as flat arrays: read from the lists of the warehouse once, put aside, given back in blocks of sequences.

200 million tokens of four columns take 3.2 GB. Columns stay in memory up to 768 MB together; those beyond that are files, which are written
and read a block at a time: mapped pages would count as memory of the process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse.blocks import Block, Integers
from warehouse.connect import Warehouse
from warehouse.policy_settings import DIRECTIONAL
from warehouse.write import OPTIONAL_SIGNALS

T = TypeVar("T")

_BLOCK_TOKENS = 1 << 19
_FEWEST_BLOCK_TOKENS = 1 << 16
_BATCH_SEQUENCES = 8192
_HELD_BYTES = 768 << 20

_DIRECTION = ("direct", "causal")
"""Columns of record.direction_values."""

_SIGNALS = ("loss", "entropy", *OPTIONAL_SIGNALS)
"""Columns of record.signal_values."""


def by_group(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sort columns of values by the group (`write.GROUPS`) that they are stored in.

    Returns:
        for each group, the columns of its table to the given names: adapt to {direct: adapt_direct, ...}.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        model, _, rest = name.partition("_")
        group = {"adapt": "adapt", "stab": "stab", "ref": "ref_signals"}.get(model, "signals")
        groups.setdefault(group, {})[name if group == "signals" else rest] = name
    return groups


@dataclass(frozen=True)
class Stored:
    """Where contents and values of mask_sequences are stored.

    Attributes:
        first_rows: for `contents` and each group of values (`write.GROUPS`), the row of its table before which no sequence lies.
        identities: of each group of values.
        are_pairs: whether there is a β, so that values of pairs are weighed by ω; that of a single response is 1.
    """

    first_rows: Mapping[str, int]
    identities: Mapping[str, str]
    are_pairs: bool


class TokenColumns:
    """The sequences of mask_sequences and flat columns of their response tokens, in the order of `place`.

    Attributes:
        warehouse: the open warehouse.
        lengths: response tokens of each sequence.
        starts: index of the first token of each.
        numbers: its ordinal by sequence_id.
        sources: ordinal of its source.
        num_tokens: tokens of all.
        stored: where contents and values lie.
        weights: where the examples are pairs, what the values of a direction are multiplied by (ω); None otherwise.
        num_workers: threads that `each` uses.
    """

    def __init__(self, warehouse: Warehouse, folder: Path, stored: Stored) -> None:
        """Read the sequences; no values yet.

        Args:
            warehouse: the open warehouse, with mask_sequences.
            folder: an empty folder for the columns.
            stored: where their contents and values lie.
        """
        self.warehouse, self._folder, self.stored = warehouse, folder, stored
        self._held: dict[str, NDArray[Any]] = {}
        self._in_memory: set[str] = set()
        self._lock = Lock()
        self._types: dict[str, np.dtype[Any]] = {}
        found = warehouse.run("masks/read_sequences", first_row=stored.first_rows["contents"]).fetchnumpy()
        self.numbers, self.sources, self.lengths = (
            np.asarray(found[name], dtype=np.int64) for name in ("number", "source_number", "num_tokens")
        )
        self.starts: Integers = np.cumsum(self.lengths) - self.lengths
        self.num_tokens = int(self.lengths.sum())
        self.weights: NDArray[np.float64] | None = None
        if stored.are_pairs:
            self.weights = np.asarray(warehouse.run("masks/read_weights").fetchnumpy()["weight"], dtype=np.float64)
        self.num_workers = int(warehouse.con.execute("SELECT current_setting('threads')").fetchall()[0][0])

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of about half a million tokens, one per thread where there are few, in order; one of a single longer sequence."""
        begin, size = 0, len(self.lengths)
        block_tokens = min(max(self.num_tokens // self.num_workers + 1, _FEWEST_BLOCK_TOKENS), _BLOCK_TOKENS)
        while begin < size:
            start = int(self.starts[begin])
            end = max(begin + 1, int(np.searchsorted(self.starts, start + block_tokens)))
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

    def each(self, work: Callable[[Block], T], blocks: Iterator[Block] | None = None) -> list[T]:
        """Do something to every block, or to some, on several threads; NumPy and DuckDB compute without the GIL.

        Few blocks are made ahead: one of sequences that are no neighbours holds an index per token.

        Returns:
            the results, in order.
        """
        results: list[T] = []
        with ThreadPoolExecutor(self.num_workers) as pool:
            waiting: deque[Future[T]] = deque()
            for block in self.blocks() if blocks is None else blocks:
                if len(waiting) == 2 * self.num_workers:
                    results.append(waiting.popleft().result())
                waiting.append(pool.submit(work, block))
            return results + [one.result() for one in waiting]

    def holds(self, name: str) -> bool:
        """Tell whether a column is put aside."""
        return name in self._types

    def read_values(self, names: Iterable[str]) -> None:
        """Read stored columns and put them aside; NaN where they are NULL."""
        for group, columns in by_group(names).items():
            self.read_group(group, columns)

    def read_group(self, group: str, columns: Mapping[str, str]) -> None:
        """Read columns of one group of values, as `by_group` gives them, and put them aside."""
        is_direction = group in ("adapt", "stab")
        statement, stored = ("masks/read_direction", _DIRECTION) if is_direction else ("masks/read_signals", _SIGNALS)
        asked = {column: column in columns for column in stored}
        first_row, identity = self.stored.first_rows[group], self.stored.identities[group]
        self.read(columns, statement, np.float32, group=group, first_row=first_row, identity=identity, **asked)

    def values(self, name: str, block: Block) -> NDArray[np.floating]:
        """Give a column's values of a block; those of a direction times the weights of their sequences, in float64, where there are some."""
        flat: NDArray[np.floating] = self.of(name, block)
        if self.weights is None or name not in DIRECTIONAL:
            return flat
        weighted: NDArray[np.floating] = flat * block.per_token(self.weights[block.sequences])
        return weighted

    def read(self, names: Mapping[str, str], statement: str, kind: type[np.generic], /, **parameters: Any) -> None:
        """Read columns from lists and put them aside.

        Args:
            names: columns of the statement to the names under which they are put aside.
            statement: an SQL file that gives the place and the lists of every sequence once; a list that is NULL makes its tokens NaN, or 0 in
                a column of integers, as does a NULL in a list.
            kind: of the columns.
            parameters: of the statement.

        Raises:
            ValueError: a list is not as long as its response, or a sequence has none.
        """
        for name in names.values():
            self._make(name, kind)
        num_read = 0
        for batch in self.warehouse.batches(statement, _BATCH_SEQUENCES, **parameters):
            num_read += batch.num_rows
            for column, name in names.items():
                self._place_lists(name, batch.column("place"), batch.column(column))
        if num_read != len(self.lengths):
            told = " and ".join(names.values())
            raise ValueError(
                f"{self.warehouse.folder}: {num_read} of {len(self.lengths)} sequences have a row of {told}; the warehouse is damaged: value the "
                "tokens again in a new warehouse.path"
            )

    def _place_lists(self, name: str, places: pa.Array, lists: pa.ListArray) -> None:
        if lists.null_count:
            self._clear(name, places.filter(lists.is_null()).to_numpy())
            places, lists = places.filter(lists.is_valid()), lists.filter(lists.is_valid())
        self._place(name, places.to_numpy(), lists)

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
        with self._lock:
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
