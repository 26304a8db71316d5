"""Writes of rows with their receipts: snapshots, tokenized sequences, shards of values, scorings. One transaction each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.ingest import Ingested


@dataclass(frozen=True)
class ValueIdentities:
    """Identities of the four groups of values of a scoring (DESIGN 4): each changes only with what its numbers depend on."""

    adapt_values_id: str
    stab_values_id: str
    signals_id: str
    ref_signals_id: str

    def scoring_id(self, tokenization_id: str) -> str:
        """Identify the scoring: its values, and the tokenization that says whose values they are."""
        return digest("scoring", tokenization_id, self.adapt_values_id, self.stab_values_id, self.signals_id, self.ref_signals_id)


GROUPS = ("adapt", "stab", "signals", "ref_signals")
"""Groups of values, as in `ValueIdentities`."""


def receipt(warehouse: Warehouse, stage: str, identity: str, num_rows: int, run_id: str) -> None:
    """Write a receipt, unless it is there; call it inside the transaction of the rows it stands for."""
    warehouse.run("runs/insert_receipt", stage=stage, identity=identity, num_rows=num_rows, run_id=run_id)


def snapshot_identity(ingested: Ingested) -> str:
    """Digest what a snapshot is: the set of examples with sources, other columns and multiplicities, and the rows that were set aside."""
    frame = ingested.examples.select("example_id", "multiplicity", "source", "extra").sort("example_id")
    return digest("snapshot", frame.rows(), ingested.rejected.sort("reason", "raw").select("reason", "raw").rows())


def write_snapshot(warehouse: Warehouse, role: str, ingested: Ingested, run_id: str) -> str:
    """Store the examples of a data set and the rows set aside; nothing when this very snapshot is stored.

    Returns:
        snapshot_id.
    """
    snapshot_id = snapshot_identity(ingested)
    if warehouse.one("ingest/count_snapshots", snapshot_id=snapshot_id, role=role) != (0,):
        return snapshot_id
    known_elsewhere = warehouse.one("runs/count_receipts", stage="ingest", identity=snapshot_id) != (0,)
    with warehouse.transaction():
        if not known_elsewhere:  # the same rows may serve two roles; they are stored once
            warehouse.insert("ingest/insert_examples", ingested.examples)
            warehouse.insert("ingest/insert_snapshot_examples", ingested.examples, snapshot_id=snapshot_id)
            warehouse.insert("ingest/insert_rejected_rows", ingested.rejected, snapshot_id=snapshot_id)
            receipt(warehouse, "ingest", snapshot_id, len(ingested.examples), run_id)
        warehouse.run(
            "ingest/insert_snapshot",
            snapshot_id=snapshot_id, role=role, kind=ingested.kind, num_examples=len(ingested.examples), num_rows=ingested.num_rows,
            num_rejected=len(ingested.rejected), run_id=run_id,
        )  # fmt: skip
    return snapshot_id


SEQUENCE_SCHEMA = pa.schema([
    ("example_id", pa.string()),
    ("branch", pa.string()),
    ("sequence_id", pa.string()),
    ("token_ids", pa.list_(pa.int32())),
    ("response_positions", pa.list_(pa.int32())),
    ("end_of_turn_positions", pa.list_(pa.int32())),
    ("num_prompt_tokens_cut", pa.uint32()),
    ("num_response_tokens_cut", pa.uint32()),
    ("reason", pa.string()),
    ("detail", pa.string()),
])
"""Rows of `write_sequences`: sequence_id and the lists are null for a rejected example, reason and detail for any other."""


def sequence_identity(branch: str, token_ids: Sequence[int], response_positions: Sequence[int], end_of_turn: Sequence[int]) -> str:
    """Digest what a sequence is: its tokens, which of them count, and their weight in the objective, with which values are stored.

    Returns:
        the identity, another one for the branch `rejected` (weight -1) than for `sft` and `chosen` (weight 1), which share their sequences.
    """
    return digest("sequence", "rejected" if branch == "rejected" else "sft", list(token_ids), list(response_positions), list(end_of_turn))


def write_sequences(
    warehouse: Warehouse, tokenization_id: str, tokenizer_digest: str, settings: Mapping[str, Any], rows: pa.Table, run_id: str
) -> None:
    """Store newly tokenized examples under a tokenization.

    Args:
        warehouse: the open warehouse.
        tokenization_id: identity of tokenizer, template and settings.
        tokenizer_digest: identity of the vocabulary.
        settings: what tokenization_id is the digest of.
        rows: a table of `SEQUENCE_SCHEMA`.
        run_id: the run.
    """
    with warehouse.transaction():
        if warehouse.one("tokenize/count_tokenizations", tokenization_id=tokenization_id) == (0,):
            warehouse.run(
                "tokenize/insert_tokenization",
                tokenization_id=tokenization_id, tokenizer_digest=tokenizer_digest, settings=json.dumps(settings, sort_keys=True), run_id=run_id,
            )  # fmt: skip
        warehouse.insert("tokenize/insert_sequences", _distinct_sequences(rows))
        warehouse.insert("tokenize/insert_example_sequences", rows, tokenization_id=tokenization_id)
        receipt(warehouse, "tokenize", digest(tokenization_id, rows.column("example_id").to_pylist()), rows.num_rows, run_id)


def _distinct_sequences(rows: pa.Table) -> pa.Table:
    """Return one row per sequence, the first. Here and not in SQL: an aggregate would copy every list several times."""
    ids = rows.column("sequence_id")
    if pc.count_distinct(ids, mode="all").as_py() == rows.num_rows and not ids.null_count:
        return rows
    frame = pl.DataFrame({"sequence_id": pl.Series(ids), "row": range(rows.num_rows)})
    first = frame.drop_nulls("sequence_id").unique("sequence_id", keep="first", maintain_order=True)
    return rows.take(first["row"].to_arrow())


def write_vocabulary(warehouse: Warehouse, tokenizer_digest: str, texts: Sequence[str]) -> None:
    """Store the text of every token of a tokenizer, once."""
    if warehouse.one("tokenize/count_vocabulary", tokenizer_digest=tokenizer_digest) != (0,):
        return
    frame = pl.DataFrame({"token_id": range(len(texts)), "token": texts}, schema={"token_id": pl.Int32, "token": pl.String})
    with warehouse.transaction():
        warehouse.insert("tokenize/insert_vocabulary", frame, tokenizer_digest=tokenizer_digest)


OPTIONAL_SIGNALS = ("margin", "el2n", "grad_norm")
"""Signals of the scoring model that are stored when the settings ask for them, and NULL otherwise."""

_FLOATS = pa.list_(pa.float32())
PART_SCHEMAS = {
    "scoring": pa.schema(
        [("sequence_id", pa.string())]
        + [(f"{d}_{axis}", _FLOATS) for d in ("adapt", "stab") for axis in ("direct", "causal")]
        + [("adapt_prompt_context", pa.float64()), ("stab_prompt_context", pa.float64()), ("loss", _FLOATS), ("entropy", _FLOATS)]
        + [(name, _FLOATS) for name in OPTIONAL_SIGNALS]
    ),
    "reference": pa.schema([("sequence_id", pa.string()), ("loss", _FLOATS), ("entropy", _FLOATS)]),
}
"""Rows of a part, by the model that was run; columns of a direction or a signal that was not asked for are null."""


def commit_shard(warehouse: Warehouse, groups: Mapping[str, str], rows: pa.Table, run_id: str) -> int:
    """Store a shard of values with its receipt, in one transaction. Sequences that have their values already are left as they are.

    Args:
        warehouse: the open warehouse.
        groups: which groups of values the rows hold, and under which identity (`GROUPS` to id).
        rows: a table of one of `PART_SCHEMAS`.
        run_id: the run.

    Returns:
        number of sequences in the shard.
    """
    with warehouse.transaction():
        with warehouse.incoming(rows):
            for group, identity in groups.items():
                key = "values_id" if group in ("adapt", "stab") else "signals_id"
                warehouse.run(f"values/insert_{group}", **{key: identity})
        receipt(warehouse, "score", digest(groups, rows.column("sequence_id").to_pylist()), rows.num_rows, run_id)
    return int(rows.num_rows)


def write_scoring(
    warehouse: Warehouse,
    ids: ValueIdentities,
    tokenization_id: str,
    snapshot_id: str,
    settings: Mapping[str, Any],
    run_id: str,
    *,
    validation_id: str | None = None,
) -> bool:
    """Make a scoring whose values are complete for a snapshot the current one.

    What is said of a stored scoring is written anew when its `stability_alignment` was measured again (on another retention text): the
    comparison is no input of the values and so no part of the identity.

    Args:
        warehouse: the open warehouse.
        ids: identities of its values.
        tokenization_id: its tokenization.
        snapshot_id: the training snapshot.
        settings: what the identities are digests of.
        run_id: the run.
        validation_id: the validation snapshot, which becomes current with it.

    Returns:
        whether anything was written.
    """
    scoring_id = ids.scoring_id(tokenization_id)
    wanted = {"snapshot": snapshot_id, "tokenization": tokenization_id, "scoring": scoring_id}
    wanted |= {"validation": validation_id} if validation_id is not None else {}
    stored = warehouse.one("values/get_scoring_settings", scoring_id=scoring_id)
    measured = stored is not None and json.loads(stored[0]).get("stability_alignment") != settings.get("stability_alignment")
    if not measured and wanted.items() <= warehouse.pointers().items():
        return False
    with warehouse.transaction():
        if measured:
            warehouse.run("values/update_scoring_settings", scoring_id=scoring_id, settings=json.dumps(settings, sort_keys=True))
        if stored is None:
            _insert_scoring(warehouse, scoring_id, ids, tokenization_id, settings, run_id)
        for name, value in wanted.items():
            warehouse.point(name, value)
    return True


def write_held_out(warehouse: Warehouse, ids: ValueIdentities, tokenization_id: str, settings: Mapping[str, Any], run_id: str) -> bool:
    """Make the values of the validation set, fold by fold, those that `keep: auto` compares with.

    Args:
        warehouse: the open warehouse.
        ids: identities of the values.
        tokenization_id: their tokenization.
        settings: those of the scoring, with `held_out_of`, the scoring they belong to, and `folds`.
        run_id: the run.

    Returns:
        whether anything was written.
    """
    scoring_id = ids.scoring_id(tokenization_id)
    is_stored = warehouse.one("values/get_scoring_settings", scoring_id=scoring_id) is not None  # pruned with the scoring it belonged to
    if is_stored and warehouse.pointer("held_out") == scoring_id:
        return False
    with warehouse.transaction():
        if not is_stored:
            _insert_scoring(warehouse, scoring_id, ids, tokenization_id, settings, run_id)
        warehouse.point("held_out", scoring_id)
    return True


def _insert_scoring(
    warehouse: Warehouse, scoring_id: str, ids: ValueIdentities, tokenization_id: str, settings: Mapping[str, Any], run_id: str
) -> None:
    warehouse.run(
        "values/insert_scoring",
        scoring_id=scoring_id, tokenization_id=tokenization_id, adapt_values_id=ids.adapt_values_id,
        stab_values_id=ids.stab_values_id, signals_id=ids.signals_id, ref_signals_id=ids.ref_signals_id,
        settings=json.dumps(settings, sort_keys=True), run_id=run_id,
    )  # fmt: skip


def write_beta(warehouse: Warehouse, beta: float) -> bool:
    """Set β of DPO, by which the views weigh the values of pairs; nothing where the training data are single responses.

    Args:
        warehouse: the open warehouse.
        beta: `preference.beta`.

    Returns:
        whether that was a change. No value is written anew: ω is made of β and stored log-probabilities where it is read.
    """
    if warehouse.one("ingest/current_kind") != ("preference",) or warehouse.pointer("beta") == repr(beta):
        return False
    with warehouse.transaction():
        return warehouse.point("beta", repr(beta))


def write_training(
    warehouse: Warehouse, training_id: str, policy: str, mask_id: str, release_id: str, settings: str, checkpoint: str,
    metrics: Sequence[tuple[int, str, float]], run_id: str,
) -> None:  # fmt: skip
    """Store a completed training with its metrics (step, metric, value) and its receipt; an older one of the same identity goes."""
    frame = pl.DataFrame(list(metrics), schema={"step": pl.UInt64, "metric": pl.String, "value": pl.Float64}, orient="row")
    with warehouse.transaction():
        warehouse.run("training/delete_training", training_id=training_id)
        warehouse.run("training/delete_metrics", training_id=training_id)
        warehouse.run(
            "training/insert_training", training_id=training_id, policy=policy, mask_id=mask_id, release_id=release_id, settings=settings,
            checkpoint=checkpoint, run_id=run_id,
        )  # fmt: skip
        warehouse.insert("training/insert_metrics", frame, training_id=training_id)
        receipt(warehouse, "train", training_id, len(metrics), run_id)
