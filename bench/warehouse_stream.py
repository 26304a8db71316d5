"""The stream of masked batches, beside plain DuckDB that reads the same rows in an order."""

import statistics
from typing import Any

import numpy as np

from bench.warehouse_case import Bench, Case
from bench.warehouse_raw import ordered
from warehouse.stream import Cursor, open_stream

_BATCH_SIZE = 64


def bench_stream(bench: Bench) -> dict[str, Case]:
    """Go through an epoch in batches, and resume in its middle; the flat copy of the mask is made first, once per release."""
    first, whole, resumed = Case(), Case(), Case()
    folder = bench.folder / "warehouse"

    def stream(cursor: Cursor | None = None) -> Any:
        batches = open_stream(folder, seed=0, batch_size=_BATCH_SIZE)
        return batches.batches(epochs=1) if cursor is None else batches.batches(cursor, epochs=1)

    first.ours(lambda: next(stream()))
    middle = Cursor(0, bench.num_examples // _BATCH_SIZE // 2)
    for _ in bench.rounds(whole):
        num_examples = whole.ours(lambda: sum(len(batch.input_ids) for batch, _ in stream()))
        resumed.ours(lambda: next(stream(middle)))
        if bench.beside_raw:
            with bench.raw() as raw:
                names = raw.con.sql("SELECT sequence_id FROM tokens ORDER BY 1").pl()
                order = names.with_columns(place=np.random.default_rng(0).permutation(len(names)))
                whole.raw(ordered, raw, order, _BATCH_SIZE)
    whole.rates = {"thousand examples": num_examples / 1e3}
    whole.note = f"{num_examples / statistics.median(whole.seconds):,.0f} examples/s; plain: rows in order, no padding, no labels"
    return {"stream: first of a release": first, "stream: an epoch": whole, "stream: first batch after resume": resumed}
