"""Cost of masks: synthetic values of many sequences in a warehouse, every kind of policy on them, in process and wall time.

python -m bench.policies [--tokens 20000000] [--memory-limit 4GB] [--folder FOLDER] [--only NAME ...] [--repeats 1]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse.connect import Warehouse
from warehouse.policies import BUILT_IN, PolicySettings, write_mask
from warehouse.settings import WarehouseSettings
from warehouse.write import PART_SCHEMAS, ValueIdentities, commit_shard, write_scoring, write_sequences

_PROMPT_TOKENS, _RESPONSE_TOKENS, _SHARD_SEQUENCES = 20, (100, 300), 8192
_IDS = ValueIdentities("A", "S", "G", "R")

POLICIES = {
    "default": BUILT_IN["default"],
    "threshold": PolicySettings(threshold=0.0),
    "window 9": PolicySettings(window=9),
    "soft ranks": PolicySettings(soft="rank"),
    "expression": PolicySettings(expression="adapt_direct + adapt_causal + stab_direct + stab_causal - 0.5 * ref_loss"),
    "random": BUILT_IN["random"],
    "full": BUILT_IN["full"],
    "z-scores over sources": PolicySettings(normalize_over="source"),
    "scope source": PolicySettings(scope="source"),
    "scope data set": PolicySettings(scope="dataset"),
    "ranks over responses": PolicySettings(normalization="rank", normalize_over="response"),
    "ranks over the data set": PolicySettings(normalization="rank"),
}
"""What is timed; names as they are printed."""


def _shards(num_tokens: int) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
    """Yield (sequences, values and signals of the scoring model, signals of the reference) of up to a shard each, from a fixed seed."""
    generator = np.random.Generator(np.random.Philox(0))
    done = number = 0
    while done < num_tokens:
        lengths = generator.integers(*_RESPONSE_TOKENS, size=_SHARD_SEQUENCES, endpoint=True)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), num_tokens - done)) + 1]
        size, offsets = int(lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])

        def floats(size: int = size, offsets: NDArray[np.int64] = offsets) -> pa.Array:
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(generator.standard_normal(size, np.float32)))

        ids = [f"{number + i:032x}" for i in range(len(lengths))]
        yield _sequences(ids, lengths), _values(ids, floats, "scoring"), _values(ids, floats, "reference")
        done, number = done + size, number + len(ids)


def _values(ids: list[str], floats, model: str) -> pa.Table:  # type: ignore[no-untyped-def]
    schema = PART_SCHEMAS[model]
    columns = {"sequence_id": pa.array(ids)}
    for name in schema.names[1:]:
        is_list = pa.types.is_list(schema.field(name).type)
        columns[name] = floats() if is_list else pa.array(np.zeros(len(ids)))
    return pa.table(columns).cast(schema)


def _sequences(ids: list[str], lengths: NDArray[np.int64]) -> pa.Table:
    places = [np.arange(n + _PROMPT_TOKENS, dtype=np.int32) for n in lengths]
    return pa.table({
        "example_id": [f"example-{i}" for i in ids], "branch": ["sft"] * len(ids), "sequence_id": ids,
        "token_ids": pa.array(places), "response_positions": pa.array([p[_PROMPT_TOKENS:] for p in places]),
        "end_of_turn_positions": pa.array([p[-1:] for p in places]),
        "num_prompt_tokens_cut": pa.array([0] * len(ids), pa.uint32()), "num_response_tokens_cut": pa.array([0] * len(ids), pa.uint32()),
        "reason": pa.nulls(len(ids), pa.string()), "detail": pa.nulls(len(ids), pa.string()),
    })  # fmt: skip


def fill(warehouse: Warehouse, num_tokens: int) -> None:
    """Store sequences of 100 to 300 response tokens, standard normal values, three sources, as a run of valuing would."""
    for sequences, values, reference in _shards(num_tokens):
        write_sequences(warehouse, "tokenization", "tokenizer", {}, sequences, "run")
        commit_shard(warehouse, {"adapt": "A", "stab": "S", "signals": "G"}, values, "run")
        commit_shard(warehouse, {"ref_signals": "R"}, reference, "run")
    warehouse.con.execute(
        "INSERT INTO record.snapshot_examples SELECT 'snapshot', example_id, 1, 'source-' || row_number() OVER () % 3, NULL, 'f', 1 "
        "FROM record.example_sequences"
    ).fetchall()
    write_scoring(warehouse, _IDS, "tokenization", "snapshot", {}, "run")
    warehouse.con.execute("CHECKPOINT").fetchall()


def bench_policies(
    num_tokens: int, folder: Path, names: Sequence[str] = tuple(POLICIES), repeats: int = 1, memory_limit: str = "4GB"
) -> dict[str, tuple[float, float, float]]:
    """Time policies in turn, several times over, each mask computed anew.

    Args:
        num_tokens: response tokens of the warehouse, to within one sequence.
        folder: of the warehouse; one that is there is used as it is.
        names: which of `POLICIES`.
        repeats: turns.
        memory_limit: `warehouse.memory_limit`.

    Returns:
        per policy, the medians of process seconds and wall seconds, and the kept share.
    """
    is_new = not folder.exists()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    with Warehouse(folder, WarehouseSettings(memory_limit=memory_limit)) as warehouse:
        if is_new:
            fill(warehouse, num_tokens)
        for _ in range(repeats):
            for name in names:
                warehouse.con.execute("DELETE FROM record.receipts WHERE stage = 'mask'").fetchall()
                process, wall = time.process_time(), time.perf_counter()
                receipt = write_mask(warehouse, name, POLICIES[name], "run")
                found[name].append((time.process_time() - process, time.perf_counter() - wall, receipt.num_kept / receipt.num_tokens))
    return {name: tuple(np.median(times, axis=0).tolist()) for name, times in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory-limit", default="4GB")
    parser.add_argument("--folder", type=Path, help="keep the warehouse here; a temporary one otherwise")
    parser.add_argument("--only", nargs="+", choices=POLICIES, default=list(POLICIES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "warehouse"
        medians = bench_policies(args.tokens, folder, args.only, args.repeats, args.memory_limit)
    print("| policy | process s | wall s | kept |\n|---|---|---|---|")
    for name, (process, wall, share) in medians.items():
        print(f"| {name} | {process:.1f} | {wall:.1f} | {share:.4f} |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
