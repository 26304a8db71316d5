"""The sequences of a mask as flat arrays: read once from a release, kept beside it, and mapped into memory ever after.

The copy beside a release is a folder `streams/<mask_id>` of NumPy files and one Arrow file. It holds nothing that the release does not
hold, goes when the release is pruned, and lets a resumed training, or the eighth rank on a machine, begin without reading again: ranks
share its pages. Where it cannot be written the arrays live in this process alone.
"""

import fcntl
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from warehouse import sql
from warehouse.pairs import members_per_entry, read_ref_losses

logger = logging.getLogger("alphatoken")

_ROWS_PER_READ = 8192
"""Rows fetched at once: one row group."""

_VERSION = 2
"""Of the copy's form; another one is read again from the release."""

_ARRAYS = ("offsets", "token_ids", "keep", "num_supervised", "entries", "source_codes")
_OPTIONAL_ARRAYS = ("weights", "ref_losses")


@dataclass(frozen=True)
class Sequences:
    """All sequences of a mask behind one another; sequence i has the tokens from offsets[i] to offsets[i + 1].

    Attributes:
        sequence_ids: the sequences, each once: an Arrow array of text.
        offsets: int64, one more than sequences.
        token_ids: int32, one per token.
        keep: bool, one per token; whether the mask keeps it (False for prompts).
        num_supervised: int64, one per sequence, from SQL: kept tokens at a position above 0.
        entries: int64, [entries, 1 or 2], which sequences a pass has, in the order of example_id, repeated by the examples' multiplicities;
            one sequence each, or the chosen and the rejected one of a pair.
        source_codes: int16, one per entry: an index into `sources`.
        sources: names of the sources, sorted, None (rows without a source) first.
        num_supervised_tokens: tokens with a loss in one pass over all entries, counted by SQL on its own.
        weights: float32, one per token, 0 where the mask does not keep it; None for a mask without soft weights.
        ref_losses: float32, one per token, nats under the reference model, NaN where a token is no response or has no loss; None
            unless the entries are pairs.
    """

    sequence_ids: pa.Array
    offsets: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    keep: NDArray[np.bool_]
    num_supervised: NDArray[np.int64]
    entries: NDArray[np.int64]
    source_codes: NDArray[np.int16]
    sources: tuple[str | None, ...]
    num_supervised_tokens: int
    weights: NDArray[np.float32] | None = None
    ref_losses: NDArray[np.float32] | None = None


def load_sequences(con: duckdb.DuckDBPyConnection, mask_id: str, release_folder: Path | None = None) -> Sequences:
    """Map the copy beside a release, making it when it is missing; without a folder read into memory.

    Args:
        con: connection to a release, or to any warehouse nobody writes meanwhile; read only.
        mask_id: the mask.
        release_folder: folder of the release that `con` reads.

    Returns:
        the sequences.

    Raises:
        ValueError: the mask is unknown, has no sequences, does not decide on all of them, or its pairs are incomplete.
    """
    if release_folder is None:
        return _read(con, mask_id)
    folder = release_folder / "streams" / mask_id
    copy = _map(folder)
    if copy is not None:
        return copy
    try:
        folder.parent.mkdir(exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several ranks one reads, the others wait and map
            copy = _map(folder)
            if copy is None:
                _make(con, mask_id, folder)
                copy = _map(folder)
    except OSError as error:
        logger.warning("%s: no copy for later streams can be kept there (%s); this stream lives in memory", folder, error)
    return copy or _read(con, mask_id)


def _make(con: duckdb.DuckDBPyConnection, mask_id: str, folder: Path) -> None:
    """Write the copy beside its place and rename it, so that it is whole or absent; call it while holding the lock."""
    partial = folder.parent / f".{folder.name}.partial"
    for leftover in (partial, folder):  # of a killed process; damaged, or of another version
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        sequences = _read(con, mask_id, partial)
        for name in (*_ARRAYS, *_OPTIONAL_ARRAYS):
            array = getattr(sequences, name)
            if array is not None and not (partial / f"{name}.npy").exists():
                np.save(partial / f"{name}.npy", array)
        table = pa.table({"sequence_id": sequences.sequence_ids})
        with pa.OSFile(str(partial / "sequence_ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
        about = {
            "version": _VERSION,
            "sizes": sizes,
            "sources": sequences.sources,
            "num_supervised_tokens": sequences.num_supervised_tokens,
        }
        (partial / "manifest.json").write_text(json.dumps(about))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class _Flat:
    """An array of known size that is filled from its beginning: in memory, or in a NumPy file without ever being in memory."""

    def __init__(self, dtype: type[np.generic], size: int, file: Path | None) -> None:
        self._file = file
        self._array = np.empty(size if file is None else 0, dtype)
        self._filled = 0
        if file is not None:
            self._stream = file.open("wb")
            described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (size,)}
            np.lib.format.write_array_header_1_0(self._stream, described)

    def add(self, values: NDArray[Any]) -> None:
        if self._file is None:
            self._array[self._filled : self._filled + len(values)] = values
        else:
            self._stream.write(np.ascontiguousarray(values, self._array.dtype).data)
        self._filled += len(values)

    def done(self) -> NDArray[Any]:
        if self._file is None:
            return self._array
        self._stream.close()
        return np.asarray(np.load(self._file, mmap_mode="r"))


def _map(folder: Path) -> Sequences | None:
    """Map a copy into memory; None where there is none, or where a file is not as long as it was written."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    about = json.loads(manifest.read_text())
    files = {name: folder / name for name in about["sizes"]}
    if about["version"] != _VERSION or any(not f.is_file() or f.stat().st_size != about["sizes"][n] for n, f in files.items()):
        return None
    stored = (*_ARRAYS, *(name for name in _OPTIONAL_ARRAYS if f"{name}.npy" in files))
    arrays = {name: np.asarray(np.load(files[f"{name}.npy"], mmap_mode="r")) for name in stored}
    with pa.memory_map(str(files["sequence_ids.arrow"])) as source:
        sequence_ids = pa.ipc.open_file(source).read_all()["sequence_id"].combine_chunks()
    return Sequences(sequence_ids, **arrays, sources=tuple(about["sources"]), num_supervised_tokens=about["num_supervised_tokens"])


def _query(con: duckdb.DuckDBPyConnection, name: str, mask_id: str) -> Any:
    """Make a relation, not a result: DuckDB hands its rows to Arrow without another copy (untyped, as pyarrow is)."""
    return con.sql(sql.load(name), params={"mask_id": mask_id})


def check_mask(con: duckdb.DuckDBPyConnection, mask_id: str) -> bool:
    """Refuse a mask that is unknown, that leaves a sequence of its snapshot undecided, or whose weights do not fit its flags.

    Returns:
        whether it has soft weights.

    Raises:
        ValueError: so it is; names the known masks, or the first sequence.
    """
    known = con.execute(sql.load("stream/known_masks")).fetchall()
    if mask_id not in {row[0] for row in known}:
        names = ", ".join(f"{identity} ({policy})" for identity, policy in known) or "none; make one first"
        raise ValueError(f"there is no mask {mask_id} in this warehouse; it has: {names}")
    if offending := _query(con, "stream/check_mask", mask_id).fetchall():
        example_id, branch, sequence_id, num_tokens, num_flags = offending[0]
        raise ValueError(
            f"mask {mask_id} does not decide on {len(offending)} sequences, the first is {sequence_id} (example {example_id}, {branch}): "
            f"{num_flags or 0} keep flags, or some of them NULL, for {num_tokens or 0} response tokens; make the mask again"
        )
    is_soft = bool(_query(con, "stream/count_weighted", mask_id).fetchall()[0][0])
    if is_soft and (offending := _query(con, "stream/check_weights", mask_id).fetchall()):
        sequence_id, num_flags, num_weights = offending[0]
        raise ValueError(
            f"mask {mask_id} has soft weights that do not fit its flags in {len(offending)} sequences, the first is {sequence_id}: "
            f"{num_weights or 0} weights for {num_flags} flags, or some weight is NULL, negative or not finite; make the mask again"
        )
    return is_soft


def _read(con: duckdb.DuckDBPyConnection, mask_id: str, folder: Path | None = None) -> Sequences:
    """Read a mask's sequences from the database, a row group at a time, into arrays of the size they will have.

    Args:
        con: connection to the release.
        mask_id: the mask.
        folder: where the arrays that have an entry per token go, files `<name>.npy`; None: into memory.

    Returns:
        the sequences.

    Raises:
        ValueError: the mask is unknown, has no sequences, does not decide on all of them, or its pairs are incomplete.
    """
    is_soft = check_mask(con, mask_id)
    num_sequences, num_tokens = _query(con, "stream/count_tokens", mask_id).fetchall()[0]
    if num_sequences == 0:
        raise ValueError(f"mask {mask_id}: its snapshot has no sequences; see the view rejected_rows for the reasons")
    offsets, num_supervised = np.zeros(num_sequences + 1, np.int64), np.empty(num_sequences, np.int64)
    kinds: dict[str, type[np.generic]] = {"token_ids": np.int32, "keep": np.bool_} | ({"weights": np.float32} if is_soft else {})
    flat = {name: _Flat(dtype, num_tokens, None if folder is None else folder / f"{name}.npy") for name, dtype in kinds.items()}
    sequence_ids, row = [], 0
    for rows in _query(con, "stream/tokens", mask_id).to_arrow_reader(_ROWS_PER_READ):
        lengths, end = _lengths(rows["token_ids"]), row + len(rows)
        offsets[row + 1 : end + 1] = offsets[row] + np.cumsum(lengths)
        for name, values in _laid_out(rows, lengths, is_soft=is_soft).items():
            flat[name].add(values)
        num_supervised[row:end] = rows["num_supervised"].to_numpy()
        sequence_ids.append(rows["sequence_id"])
        row = end
    ids = pa.concat_arrays(sequence_ids)
    order = _query(con, "stream/order", mask_id).to_arrow_table()
    members = members_per_entry(order, mask_id)
    places = pc.index_in(order["sequence_id"], value_set=ids).to_numpy().astype(np.int64).reshape(-1, members)
    multiplicity = order["multiplicity"].to_numpy()[::members]
    sources, codes = _encode_sources(order["source"])
    num_supervised_tokens = int(_query(con, "stream/count_supervised", mask_id).fetchall()[0][0])
    arrays = {name: array.done() for name, array in flat.items()}
    return Sequences(
        ids, offsets, num_supervised=num_supervised, entries=np.repeat(places, multiplicity, axis=0),
        source_codes=np.repeat(codes[::members], multiplicity), sources=sources, num_supervised_tokens=num_supervised_tokens,
        ref_losses=read_ref_losses(con, mask_id, ids, offsets) if members == 2 else None, **arrays,
    )  # fmt: skip


def _laid_out(rows: pa.RecordBatch, lengths: NDArray[np.int64], *, is_soft: bool) -> dict[str, NDArray[Any]]:
    """Lay the flags and weights of kept positions over all tokens of some sequences."""
    begins = np.cumsum(lengths) - lengths
    kept = np.repeat(begins, _lengths(rows["kept_positions"])) + rows["kept_positions"].flatten().to_numpy()
    arrays: dict[str, NDArray[Any]] = {"token_ids": rows["token_ids"].flatten().to_numpy(), "keep": np.zeros(int(lengths.sum()), np.bool_)}
    arrays["keep"][kept] = True
    if is_soft:
        arrays["weights"] = np.zeros(int(lengths.sum()), np.float32)
        arrays["weights"][kept] = rows["kept_weights"].flatten().to_numpy()
    return arrays


def _encode_sources(column: pa.ChunkedArray) -> tuple[tuple[str | None, ...], NDArray[np.int16]]:
    """Number the sources: None first where some rows have none, then by name."""
    names = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
    sources = (*((None,) if column.null_count else ()), *names)
    codes = pc.index_in(column, value_set=pa.array(sources, pa.string()))
    return sources, codes.to_numpy().astype(np.int16)


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    return np.asarray(lists.value_lengths().to_numpy(), dtype=np.int64)
