"""Whether the writer waits for readers: its stages beside a process that opens and asks the release over and over, and without it."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.warehouse_case import Bench, Case
from bench.warehouse_data import shards
from warehouse.connect import writer_lock
from warehouse.policies import PolicySettings, write_mask
from warehouse.read import Reader
from warehouse.release import write_release
from warehouse.write import commit_shard

_QUERIES = ("kept_by_source", "kept_by_position_decile", "nothing_kept")


def bench_readers(bench: Bench) -> dict[str, Case]:
    """Commit, mask and release, in turn beside a reader and alone. The reader has the lowest priority: of interest are locks, not cores."""
    folder, repeats = bench.folder / "warehouse", max(bench.repeats, 3)
    cases = {name: Case(note="plain: without the reader") for name in ("commit", "mask", "release")}
    with bench.warehouse() as warehouse:  # so that the reader has something to ask
        write_mask(warehouse, "default", PolicySettings(), "run")
    write_release(folder, 1)
    for repeat in range(2 * repeats):
        if repeat % 2 == 0:
            with _reading(folder) as rounds:
                _stages(bench, repeat, {name: case.ours for name, case in cases.items()})
            cases["release"].note = f"plain: without the reader, whose last loop asked {rounds()} times"
        else:
            _stages(bench, repeat, {name: case.raw for name, case in cases.items()})
    return {f"beside readers: {name}": case for name, case in cases.items()}


def _stages(bench: Bench, repeat: int, measure: dict[str, object]) -> None:
    """Do the writer's stages once, on rows of their own."""
    folder = bench.folder / "warehouse"
    shard = next(shards(bench.num_tokens // 100, seed=1000 + repeat))
    policy = PolicySettings(select="random", seed=1000 + repeat)
    with writer_lock(folder, 60, "bench"):
        with bench.warehouse() as warehouse:
            measure["commit"](commit_shard, warehouse, {"adapt": "bench", "stab": "bench too", "signals": "bench"}, shard.values, "run")  # type: ignore[operator]
            measure["mask"](write_mask, warehouse, "beside readers", policy, "run")  # type: ignore[operator]
        measure["release"](write_release, folder, 1)  # type: ignore[operator]


@contextmanager
def _reading(folder: Path) -> Generator[object]:
    """Read the release in another process for the time of the block; gives a function that tells how often, once the block is over."""
    context = get_context("spawn")
    begun, done, counted = context.Event(), context.Event(), context.Value("q", 0)
    reader = context.Process(target=_read, args=(folder, begun, done, counted))
    reader.start()
    begun.wait()
    try:
        yield lambda: counted.value
    finally:
        done.set()
        reader.join()
        if reader.exitcode:
            raise AssertionError(f"the reader failed with {reader.exitcode}")


def _read(folder: Path, begun: Event, done: Event, counted: object) -> None:
    os.nice(19)
    while not done.is_set():
        with Reader(folder) as reader:
            for name in _QUERIES:
                reader.named(name)
                counted.value += 1  # type: ignore[attr-defined]
                begun.set()
