"""The warehouse at 20 or 200 million response tokens: every step through the product's functions, beside plain DuckDB doing only that.

python -m bench.warehouse [--tokens 20M] [--memory-limit 3GB] [--repeats 3] [--folder FOLDER] [--only PART ...] [--no-raw]

Parts: ingest, commit, masks, unchanged, release, queries, stream, change, readers; each needs those before it, in the same folder. Each case runs in
a process of its own, ours and the plain one in turn; medians; cases shorter than a second are repeated more often. Memory is the peak resident
size of that process while ours ran.
At the end stands what must be shown, each with its limit (bench/warehouse_limits.py).
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from bench.warehouse_case import HEADER, Bench, Case, row
from bench.warehouse_data import Shard, ingested, shards, write_jsonl
from bench.warehouse_limits import table
from bench.warehouse_raw import CONTENTS, MASKS, QUERIES, WIDE_QUERIES, ingest, raw_rows
from bench.warehouse_readers import bench_readers
from bench.warehouse_stream import bench_stream
from warehouse.connect import DATABASE, Warehouse
from warehouse.ingest import SourceSettings, read_examples
from warehouse.policies import BUILT_IN, PolicySettings, write_mask
from warehouse.read import Reader
from warehouse.release import current_release, write_release
from warehouse.settings import MEMORY_LIMIT
from warehouse.write import ValueIdentities, commit_shard, write_held_out, write_scoring, write_sequences, write_snapshot

_IDS = ValueIdentities("A", "S", "G", "R")
_EXPRESSION = "adapt_direct + adapt_causal + stab_direct + stab_causal - 0.5 * ref_loss"
POLICIES = {
    "default": PolicySettings(),
    "random": PolicySettings(select="random"),
    "expression": PolicySettings(expression=_EXPRESSION),
    "window 9": PolicySettings(window=9),
    "scope data set": PolicySettings(scope="dataset"),
    "soft ranks": PolicySettings(soft="rank"),
    "ranks over the data set": PolicySettings(normalization="rank"),
    "ranks over responses": PolicySettings(normalization="rank", normalize_over="response"),
    "keep auto": BUILT_IN["default"],
}
"""Policies by the names that are printed; those of `MASKS` have a plain counterpart. `default` is here what a configuration's `default: {}` is,
the four components at a fixed share; what needs no entry there is `keep auto`."""

_QUERIES = (
    "kept_by_source", "value_by_source", "top_tokens", "kept_by_position_decile", "kept_by_token_class", "nothing_kept", "mask_overlap",
    "value_by_position_decile", "end_of_turn_value", "corrupted_spans", "stability_against_adaptation",
)  # fmt: skip
_VALIDATION_TOKENS = 50_000
_MOST_EXAMPLES = 80_000  # of the file that ingest reads; its time is linear in them


def bench_ingest(bench: Bench) -> dict[str, Case]:
    """Read a file of JSON lines into normalised, distinct examples, and store them, in a warehouse of its own."""
    read, write = Case(), Case()
    path, num_examples = bench.folder / "data.jsonl", min(bench.num_examples, _MOST_EXAMPLES)
    write_jsonl(path, num_examples)
    for repeat in bench.rounds(read):
        shutil.rmtree(bench.folder / f"ingest-{repeat}", ignore_errors=True)  # of an earlier bench: what is there is not stored again
        found = read.ours(read_examples, SourceSettings(path=str(path)), bench.folder)
        with Warehouse(bench.folder / f"ingest-{repeat}") as warehouse:
            write.ours(write_snapshot, warehouse, "train", found, "run")
        if bench.beside_raw:
            with bench.raw() as raw:
                read.raw(ingest, raw, path)
    read.note = f"{num_examples / statistics.median(read.seconds):,.0f} examples/s; plain: read and store"
    write.note = f"{num_examples / statistics.median(write.seconds):,.0f} examples/s"
    return {"ingest: read a file": read, "ingest: store a snapshot": write}


def bench_commit(bench: Bench) -> dict[str, Case]:
    """Commit sequences and seven columns of values, shard by shard, one transaction each."""
    sequences, values, examples, num_tokens = Case(), Case(), [], 0
    shutil.rmtree(bench.folder / "warehouse", ignore_errors=True)
    (bench.folder / "raw.duckdb").unlink(missing_ok=True)
    with bench.warehouse() as warehouse, bench.raw() as raw:
        for shard in shards(bench.num_tokens):
            sequences.ours(write_sequences, warehouse, "tokens", "tokenizer", {}, shard.sequences, "run")
            values.ours(_commit, warehouse, shard)
            if bench.beside_raw:
                values.raw(raw.insert, raw_rows(shard))
            examples.append(shard.examples)
            num_tokens += shard.num_tokens
        checkpoint = Case()
        checkpoint.ours(warehouse.con.execute, "CHECKPOINT")
        checkpoint.raw(raw.run, "CHECKPOINT")
        for case in (sequences, values):
            for kind in ("seconds", "cpu", "raw_seconds", "raw_cpu"):
                parts = getattr(case, kind)
                setattr(case, kind, [sum(parts) + sum(getattr(checkpoint, kind)) * (case is values)] if parts else [])
        snapshot = Case()
        found = ingested(pl.concat(examples))
        snapshot_id = snapshot.ours(write_snapshot, warehouse, "train", found, "run")
        validation_id, num_others = _write_validation(warehouse)
        write_scoring(warehouse, _IDS, "tokens", snapshot_id, {}, "run", validation_id=validation_id)
        write_held_out(warehouse, _IDS, "tokens", {}, "run")
    found.examples.write_parquet(bench.folder / "examples.parquet")
    size, raw_size = (path.stat().st_size for path in (bench.folder / "warehouse" / DATABASE, bench.folder / "raw.duckdb"))
    values.note = f"{num_tokens / values.seconds[0] / 1e6:.1f}M tokens/s; plain: sequences as well"
    values.rates, sequences.rates = {"million tokens": num_tokens / 1e6}, {"bytes per token": size / (num_tokens + num_others)}
    sequences.note = f"{size / (num_tokens + num_others):.1f} bytes per token in all, plain {raw_size / num_tokens:.1f}"
    return {"commit sequences": sequences, "commit seven columns": values, "store the snapshot": snapshot}


def _write_validation(warehouse: Warehouse) -> tuple[str, int]:
    """Store the set that `keep: auto` compares with, valued like the training data.

    Returns:
        its snapshot, and its response tokens.
    """
    validation = list(shards(_VALIDATION_TOKENS, seed=1_000_000))
    _commit_all(warehouse, validation)
    found = ingested(pl.concat(shard.examples for shard in validation))
    return write_snapshot(warehouse, "validation", found, "run"), sum(shard.num_tokens for shard in validation)


def _commit(warehouse: Warehouse, shard: Shard) -> None:
    commit_shard(warehouse, {"adapt": "A", "stab": "S", "signals": "G"}, shard.values, "run")
    commit_shard(warehouse, {"ref_signals": "R"}, shard.reference, "run")


def bench_mask(bench: Bench, name: str) -> dict[str, Case]:
    """Make the mask of a policy from nothing."""
    case = Case()
    for _ in bench.rounds(case):
        with bench.warehouse() as warehouse:
            _forget_masks(warehouse)
            receipt = case.ours(write_mask, warehouse, name, POLICIES[name], "run")
        if bench.beside_raw and name in MASKS:
            with bench.raw() as raw:
                case.raw(raw.run, MASKS[name])
                num_kept = raw.con.execute("SELECT sum(len(list_filter(keep, lambda k: k))) FROM mask").fetchall()[0][0]
            if num_kept != receipt.num_kept:
                raise AssertionError(f"{name}: ours keeps {receipt.num_kept} tokens, plain DuckDB {num_kept}")
    case.note = f"kept {receipt.num_kept / receipt.num_tokens:.4f}"
    return {f"mask: {name}": case}


def _forget_masks(warehouse: Warehouse) -> None:
    warehouse.con.execute("DELETE FROM record.receipts WHERE stage = 'mask'").fetchall()
    warehouse.con.execute("DELETE FROM record.masks").fetchall()
    warehouse.con.execute("DELETE FROM record.mask_values").fetchall()


_KEPT_MASKS = ("default", "random", "expression")


def bench_unchanged(bench: Bench) -> dict[str, Case]:
    """Ask what is to be done when nothing changed: snapshot, values that are lacking, masks, release."""
    plan, release = Case(), Case()
    found = ingested(pl.read_parquet(bench.folder / "examples.parquet"))
    with bench.warehouse() as warehouse:
        for name in _KEPT_MASKS:
            write_mask(warehouse, name, POLICIES[name], "run")
    write_release(bench.folder / "warehouse", 1)

    def plan_all() -> None:
        with bench.warehouse() as warehouse:
            snapshot_id = write_snapshot(warehouse, "train", found, "run")
            ids = {name: getattr(_IDS, name) for name in ("adapt_values_id", "stab_values_id", "signals_id", "ref_signals_id")}
            pending = warehouse.run("values/pending", snapshot_id=snapshot_id, tokenization_id="tokens", **ids).fetchall()
            written = [write_mask(warehouse, name, POLICIES[name], "run").written for name in _KEPT_MASKS]
        assert not any([pending, *written]), "nothing changed"

    for _ in bench.rounds(plan):
        plan.ours(plan_all)
        assert not release.ours(write_release, bench.folder / "warehouse", 1)[1], "nothing changed"
    return {"unchanged: plan and three masks": plan, "unchanged: release": release}


def bench_release(bench: Bench) -> dict[str, Case]:
    """Write a release, beside a plain copy of the file that is synced too."""
    case, folder = Case(), bench.folder / "warehouse"
    for _ in bench.rounds(case):
        shutil.rmtree(folder / "releases", ignore_errors=True)
        case.ours(write_release, folder, 1)
        if bench.beside_raw:
            case.raw(_copy, folder / DATABASE, bench.folder / "copy")
            (bench.folder / "copy").unlink()
    case.note = f"{(folder / DATABASE).stat().st_size / 1e6:,.0f} MB"
    return {"release": case}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def bench_query(bench: Bench, name: str) -> dict[str, Case]:
    """Answer a named query from the release."""
    case, wide = Case(), Case()
    if bench.beside_raw and name in QUERIES:
        with bench.raw() as raw:
            raw.run(MASKS["default"])
            raw.run(CONTENTS)
    for _ in bench.rounds(case):
        with Reader(bench.folder / "warehouse") as reader:
            case.ours(reader.named, name)
        if bench.beside_raw and name in QUERIES:
            with bench.raw() as raw:
                case.raw(raw.run, QUERIES[name])
        if bench.beside_raw and name in WIDE_QUERIES:
            with bench.raw() as raw:
                wide.raw(raw.run, WIDE_QUERIES[name])
    if wide.raw_seconds:
        seconds = statistics.median(wide.raw_seconds)
        case.note = f"one table of everything: {seconds:.3f} s, ratio {statistics.median(case.seconds) / seconds:.2f}"
    return {f"query: {name}": case}


def bench_change(bench: Bench) -> dict[str, Case]:
    """Replace 1% of the examples: commit their values, store the new snapshot, make the mask of a policy that looks at responses alone."""
    values, snapshot, mask, dependent, release = Case(), Case(), Case(), Case(), Case()
    examples = pl.read_parquet(bench.folder / "examples.parquet")
    for repeat in bench.rounds(release):
        new = list(shards(bench.num_tokens // 100, seed=repeat + 1))
        num_new = sum(len(shard.examples) for shard in new)
        found = ingested(pl.concat([examples[num_new:], *(shard.examples for shard in new)]))
        with bench.warehouse() as warehouse:
            before = _num_rows(warehouse)
            values.ours(_commit_all, warehouse, new)
            snapshot_id = snapshot.ours(write_snapshot, warehouse, "train", found, "run")
            write_scoring(warehouse, _IDS, "tokens", snapshot_id, {}, "run")
            assert mask.ours(write_mask, warehouse, "expression", POLICIES["expression"], "run").written, "the snapshot changed"
            assert [n - b for n, b in zip(_num_rows(warehouse), before, strict=True)] == [2 * num_new, 2 * num_new, num_new], "no other row"
            dependent.ours(write_mask, warehouse, "default", POLICIES["default"], "run")
        release.ours(write_release, bench.folder / "warehouse", 1)
        examples = found.examples
    release.note = f"{current_release(bench.folder / 'warehouse').database.stat().st_size / 1e6:,.0f} MB"
    return {
        "1% replaced: commit sequences and values": values, "1% replaced: store the snapshot": snapshot,
        "1% replaced: mask of independent responses": mask, "1% replaced: default mask, all rows": dependent, "1% replaced: release": release,
    }  # fmt: skip


def _commit_all(warehouse: Warehouse, new: Sequence[Shard]) -> None:
    for shard in new:
        write_sequences(warehouse, "tokens", "tokenizer", {}, shard.sequences, "run")
        _commit(warehouse, shard)


def _num_rows(warehouse: Warehouse) -> list[int]:
    tables = ("direction_values", "signal_values", "mask_values")
    return [int(warehouse.con.table(f"record.{table}").count("*").fetchall()[0][0]) for table in tables]


PARTS: dict[str, list[tuple[Any, ...]]] = {
    "ingest": [(bench_ingest,)],
    "commit": [(bench_commit,)],
    "masks": [(bench_mask, name) for name in POLICIES],
    "unchanged": [(bench_unchanged,)],
    "release": [(bench_release,)],
    "queries": [(bench_query, name) for name in _QUERIES],
    "stream": [(bench_stream,)],
    "change": [(bench_change,)],
    "readers": [(bench_readers,)],
}
"""Functions and their arguments after the bench, in the order in which they run."""


def measure(bench: Bench, parts: Sequence[str] = tuple(PARTS), *, inside: bool = False) -> dict[str, Case]:
    """Run the parts, each function in a process of its own, or `inside` this one; each row is printed as it comes."""
    found: dict[str, Case] = {}
    for part in parts:
        for function, *arguments in PARTS[part]:
            if inside:
                cases = function(bench, *arguments)
            else:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    cases = pool.submit(function, bench, *arguments).result()
            for name, case in cases.items():
                sys.stdout.write(row(name, case) + "\n")
                sys.stdout.flush()
            found |= cases
    return found


def number(text: str) -> int:
    """Read 20M, 200K or 1000."""
    factor = {"K": 1_000, "M": 1_000_000}.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=number, default="20M", help="response tokens, such as 20M")
    parser.add_argument("--memory-limit", default=MEMORY_LIMIT, help="warehouse.memory_limit, and that of plain DuckDB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep everything here; a temporary folder otherwise")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--no-raw", action="store_true", help="ours alone")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        sys.stdout.write(HEADER + "\n")
        cases = measure(Bench(folder, args.tokens, args.repeats, args.memory_limit, not args.no_raw), args.only)
        sys.stdout.write(f"\n{table(cases, args.tokens)}\n")


if __name__ == "__main__":
    main()
