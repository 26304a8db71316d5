"""Pairs of a chosen and a rejected response in the stream: which sequences belong together, and what the reference model says of them."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from warehouse import sql

_ROWS_PER_READ = 8192
"""Rows fetched at once: one row group."""


def members_per_entry(order: pa.Table, mask_id: str) -> int:
    """Tell sequences that stand alone from pairs.

    Args:
        order: rows of sql/stream/order, sorted by (example_id, branch).
        mask_id: the mask, for errors.

    Returns:
        1 where every sequence is an example of its own; 2 where rows 2i and 2i + 1 are the chosen and the rejected one of an example.

    Raises:
        ValueError: the snapshot has both kinds, or an example lacks a branch.
    """
    branches = set(pc.unique(order["branch"]).to_pylist())
    if branches == {"sft"}:
        return 1
    if "sft" in branches:
        raise ValueError(
            f"mask {mask_id}: its snapshot has both plain responses and pairs ({', '.join(sorted(branches))}), which one training cannot "
            "learn from; value them as two data sets"
        )
    ids, names = (order[name].to_pylist() for name in ("example_id", "branch"))
    for row in range(0, len(ids), 2):
        if names[row : row + 2] != ["chosen", "rejected"] or ids[row] != ids[row + 1]:
            raise ValueError(
                f"mask {mask_id}: example {ids[row]} has no sequence of its branch {'rejected' if names[row] == 'chosen' else 'chosen'!r}, and "
                "a pair needs both; see the view rejected_rows, and drop the row"
            )
    return 2


def read_ref_losses(
    con: duckdb.DuckDBPyConnection, mask_id: str, sequence_ids: pa.Array, offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Read the losses of the response tokens under the reference model, as the mask's scoring stored them.

    Args:
        con: connection to a release.
        mask_id: the mask.
        sequence_ids: its sequences.
        offsets: int64, where the tokens of each begin, and the end.

    Returns:
        ref_losses: float32, one per token, nats; NaN where a token is no response, or stands at position 0 and has no loss.

    Raises:
        ValueError: a loss is missing or not finite; names the first sequence.
    """
    ref_losses = np.full(int(offsets[-1]), np.nan, np.float32)
    if offending := con.sql(sql.load("stream/check_reference"), params={"mask_id": mask_id}).fetchall():
        raise ValueError(
            f"mask {mask_id}: the reference model's losses are missing, or not finite, for {len(offending)} sequences, the first is "
            f"{offending[0][0]}; preference optimization needs them for every response token: run `alphatoken value`"
        )
    for rows in con.sql(sql.load("stream/reference"), params={"mask_id": mask_id}).to_arrow_reader(_ROWS_PER_READ):
        begins = offsets[pc.index_in(rows["sequence_id"], value_set=sequence_ids).to_numpy()]
        lengths = np.asarray(rows["positions"].value_lengths().to_numpy(), dtype=np.int64)
        ref_losses[np.repeat(begins, lengths) + rows["positions"].flatten().to_numpy()] = rows["losses"].flatten().to_numpy()
    return ref_losses
