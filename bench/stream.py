"""Speed of the stream: masked batches of a synthetic warehouse, beside raw DuckDB and Polars that only read the rows in that order.

python -m bench.stream [--sequences 100000] [--length 200] [--batch-size 64] [--repeats 3] [--folder FOLDER]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from warehouse.connect import Warehouse
from warehouse.release import current_release, write_release
from warehouse.stream import START, Cursor, open_stream

MASK = "mask"


def build(folder: Path, num_sequences: int, length: int) -> None:
    """Write a warehouse with one mask, and release it: prompts of a third, 60% of the response kept, ids of a Zipf law."""
    generator = np.random.default_rng(0)
    num_response = length - length // 3
    with Warehouse(folder) as warehouse:
        con = warehouse.con
        con.execute("INSERT INTO record.scorings (scoring_id, tokenization_id) VALUES ('scoring', 'tokens')")
        con.execute("INSERT INTO record.masks (mask_id, policy, scoring_id, snapshot_id) VALUES ($1, 'default', 'scoring', 'now')", [MASK])
        con.execute("INSERT INTO record.pointers VALUES ('mask:default', $1)", [MASK])
        for begin in range(0, num_sequences, 8192):
            size = min(8192, num_sequences - begin)
            names = pa.array([f"{number:032x}" for number in range(begin, begin + size)])
            token_ids = np.minimum(generator.zipf(1.3, size * length), 50_000).astype(np.int32)
            keep = generator.random(size * num_response) < 0.6
            incoming = pa.table({
                "name": names,
                "token_ids": _lists(token_ids, length),
                "response_positions": _lists(np.tile(np.arange(length // 3, length, dtype=np.int32), size), num_response),
                "keep": _lists(keep, num_response),
            })
            _insert(con, incoming)
    write_release(folder, 1)


def _lists(flat: np.ndarray, size: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size, dtype=np.int32)), pa.array(flat))


def _insert(con: duckdb.DuckDBPyConnection, incoming: pa.Table) -> None:
    con.register("incoming", incoming)
    for statement in (
        "INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity) SELECT 'now', name, 1 FROM incoming",
        "INSERT INTO record.example_sequences (tokenization_id, example_id, branch, sequence_id) SELECT 'tokens', name, 'sft', name FROM incoming",
        "INSERT INTO record.sequences (sequence_id, token_ids, response_positions) SELECT name, token_ids, response_positions FROM incoming",
        f"INSERT INTO record.mask_values (mask_id, sequence_id, keep) SELECT '{MASK}', name, keep FROM incoming",
    ):
        con.execute(statement)
    con.unregister("incoming")


def _order(num_sequences: int) -> np.ndarray:
    """The stream's order of the first epoch: the names are numbers, so sorted already."""
    return np.random.Generator(np.random.Philox(key=np.array([0, 0], dtype=np.uint64))).permutation(num_sequences)


_ORDERED = """
    SELECT sequences.token_ids, kept.keep FROM record.sequences AS sequences
    JOIN record.mask_values AS kept ON kept.sequence_id = sequences.sequence_id
    JOIN ordered ON ordered.name = sequences.sequence_id ORDER BY ordered.place
"""


def _duckdb_rows(folder: Path, num_sequences: int, batch_size: int) -> Iterator[int]:
    """Read ids and flags in the stream's order, a batch at a time: no padding, no labels."""
    with duckdb.connect(str(current_release(folder).database), read_only=True) as con:
        names = [f"{number:032x}" for number in _order(num_sequences).tolist()]
        con.register("ordered", pa.table({"name": names, "place": np.arange(num_sequences)}))
        for rows in con.sql(_ORDERED).to_arrow_reader(batch_size):
            yield rows.num_rows


def _polars_rows(folder: Path, num_sequences: int, batch_size: int) -> Iterator[int]:
    """Load ids and flags into Polars and gather them in the stream's order, a batch at a time: no padding, no labels."""
    with duckdb.connect(str(current_release(folder).database), read_only=True) as con:
        query = "SELECT token_ids, keep FROM record.sequences JOIN record.mask_values USING (sequence_id) ORDER BY sequence_id"
        frame = pl.DataFrame(pl.from_arrow(con.sql(query).to_arrow_table()))
    order = _order(num_sequences)
    for begin in range(0, num_sequences, batch_size):
        yield len(frame[order[begin : begin + batch_size]])


def _stream(folder: Path, cursor: Cursor = START, **settings: int) -> Iterator[int]:
    for batch, _ in open_stream(folder, seed=0, **settings).batches(cursor, epochs=1):
        yield len(batch.input_ids)


def measure(cases: dict[str, Callable[[], Iterator[int]]], repeats: int) -> dict[str, tuple[float, float]]:
    """Run all cases in turn, several times, each from opening the release to the last batch.

    Returns:
        median seconds until (first batch, last batch) of each case.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            began = time.perf_counter()
            batches = case()
            next(batches)
            first = time.perf_counter() - began
            for _ in batches:
                pass
            seconds[name].append((first, time.perf_counter() - began))
    return {name: (statistics.median(a for a, _ in times), statistics.median(b for _, b in times)) for name, times in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sequences", 100_000), ("length", 200), ("batch-size", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="Where the warehouse is made, or lies from an earlier call; a temporary one otherwise.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "warehouse"
        if not folder.exists():
            build(folder, args.sequences, args.length)
        began = time.perf_counter()
        next(_stream(folder, batch_size=args.batch_size))
        print(f"first stream of a release, which makes the flat copy: first batch after {time.perf_counter() - began:.2f} s\n")
        size, tokens = {"batch_size": args.batch_size}, {"batch_tokens": args.batch_size * args.length}
        middle = Cursor(0, args.sequences // args.batch_size // 2)
        cases = {
            "raw DuckDB, rows in order": lambda: _duckdb_rows(folder, args.sequences, args.batch_size),
            "raw Polars, rows in order": lambda: _polars_rows(folder, args.sequences, args.batch_size),
            "stream, batch_size": lambda: _stream(folder, **size),
            "stream, batch_tokens": lambda: _stream(folder, **tokens),
            "stream, batch_tokens, bucket_window 4096": lambda: _stream(folder, **tokens, bucket_window=4096),
            "stream, resumed in the middle, one batch": lambda: islice(_stream(folder, middle, **size), 1),
        }
        found = measure(cases, args.repeats)
        reference = found["raw DuckDB, rows in order"][1]
        print("| case | first batch, s | all, s | examples/s | time, raw DuckDB = 1 |\n|---|---|---|---|---|")
        for name, (first, whole) in found.items():
            rates = "| |" if "one batch" in name else f"{args.sequences / whole:,.0f} | {whole / reference:.2f} |"
            print(f"| {name} | {first:.3f} | {whole:.2f} | {rates}")


if __name__ == "__main__":
    main()
