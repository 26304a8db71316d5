"""Laws of warehouse/write.py, warehouse/runs.py and the views: rows with their receipts, once; the views on a warehouse written out by hand."""

import json
import math
import shutil

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from tests.warehouse import written
from tests.warehouse.ids import filled, full, short
from warehouse import runs
from warehouse.connect import Warehouse
from warehouse.ingest import SourceSettings, read_examples
from warehouse.write import (
    PART_SCHEMAS,
    SEQUENCE_SCHEMA,
    ValueIdentities,
    commit_shard,
    sequence_identity,
    snapshot_identity,
    write_held_out,
    write_scoring,
    write_sequences,
    write_snapshot,
    write_training,
    write_vocabulary,
)

ROWS = [{"prompt": f"q{i}", "response": f"a{i}", "source": "web" if i % 2 else None, "grade": i} for i in range(6)]
IDS = ValueIdentities(adapt_values_id="A", stab_values_id="S", signals_id="G", ref_signals_id="R")
GROUPS = {"adapt": "A", "stab": "S", "signals": "G"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("write") / "wh"
    with Warehouse(folder):
        pass
    return folder


@pytest.fixture
def warehouse(empty, tmp_path):
    shutil.copytree(empty, tmp_path / "wh")
    with Warehouse(tmp_path / "wh") as opened:
        yield opened


def query(warehouse, text):
    return warehouse.con.execute(text).fetchall()


def content(warehouse):
    """All rows of the record with their row numbers: rewriting a row shows."""
    tables = query(warehouse, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'record' ORDER BY ALL")
    return {name: query(warehouse, f"SELECT rowid, * FROM record.{name} ORDER BY ALL") for (name,) in tables}


def counts(warehouse):
    return {name: len(rows) for name, rows in content(warehouse).items() if rows and name != "meta"}


def ingest(folder, rows, *names, bad=(), split=None, **settings):
    """Write rows as JSONL files (split among the names at `split`) and read them."""
    names = names or ("train.jsonl",)
    lines = [*(json.dumps(row) for row in rows), *bad]
    parts = [lines] if len(names) == 1 else [lines[:split], lines[split:]]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in part))
    return read_examples(SourceSettings(path=names, max_rejected_share=1, **settings), folder)


# ---- snapshots


def test_the_same_snapshot_twice_writes_nothing(warehouse, tmp_path):
    ingested = ingest(tmp_path, ROWS, bad=["no json"])
    snapshot_id = write_snapshot(warehouse, "train", ingested, "run1")
    before = content(warehouse)
    assert write_snapshot(warehouse, "train", ingest(tmp_path, ROWS, bad=["no json"]), "run2") == snapshot_id
    assert content(warehouse) == before
    assert counts(warehouse) == {"examples": 6, "snapshot_examples": 6, "rejected_rows": 1, "snapshots": 1, "receipts": 1}
    assert query(warehouse, "SELECT role, num_examples, num_rows, num_rejected, run_id FROM record.snapshots") == [
        ("train", 6, 7, 1, "run1")
    ]


def test_order_and_files_do_not_change_a_snapshot(tmp_path):
    rows = [*ROWS, ROWS[2], {**ROWS[3], "source": "book"}]  # duplicates, too, with another source
    bad = ["no json", '{"prompt": "only"}']
    identity = snapshot_identity(ingest(tmp_path, rows, bad=bad))
    assert snapshot_identity(ingest(tmp_path, rows[::-1], bad=bad[::-1])) == identity
    assert snapshot_identity(ingest(tmp_path, rows, "a.jsonl", "b.jsonl", bad=bad, split=4)) == identity
    assert snapshot_identity(ingest(tmp_path, ["\n", *rows][1:], "other.jsonl", bad=["", *bad])) == identity


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, {"prompt": "new", "response": "one"}],
        lambda rows: [*rows, rows[0]],
        lambda rows: [{**rows[0], "response": "A0"}, *rows[1:]],
        lambda rows: [{**rows[0], "source": "book"}, *rows[1:]],
        lambda rows: [{**rows[0], "grade": 99}, *rows[1:]],
    ],
    ids=["removed", "added", "doubled", "edited", "source", "another column"],
)
def test_anything_a_view_shows_of_the_data_changes_the_snapshot(tmp_path, change):
    assert snapshot_identity(ingest(tmp_path, change(ROWS))) != snapshot_identity(ingest(tmp_path, ROWS))


def test_another_bad_row_changes_the_snapshot(tmp_path):
    identities = {snapshot_identity(ingest(tmp_path, ROWS, bad=bad)) for bad in ([], ["no json"], ["no json", "no json"], ["not json"])}
    assert len(identities) == 4


def test_a_changed_source_keeps_the_example_and_stores_its_content_once(warehouse, tmp_path):
    changed = [{**ROWS[0], "source": "book"}, *ROWS[1:]]
    first = write_snapshot(warehouse, "train", ingest(tmp_path, ROWS), "run1")
    second = write_snapshot(warehouse, "train", ingest(tmp_path, changed), "run2")
    assert first != second
    assert counts(warehouse) == {"examples": 6, "snapshot_examples": 12, "snapshots": 2, "receipts": 2}
    moved = query(
        warehouse,
        f"SELECT a.source, b.source FROM record.snapshot_examples AS a JOIN record.snapshot_examples AS b USING (example_id) "
        f"WHERE a.snapshot_id = '{first}' AND b.snapshot_id = '{second}' AND a.source IS DISTINCT FROM b.source",
    )
    assert moved == [(None, "book")]


def test_one_snapshot_may_serve_two_roles(warehouse, tmp_path):
    ingested = ingest(tmp_path, ROWS, bad=["no json"])
    train = write_snapshot(warehouse, "train", ingested, "run1")
    assert write_snapshot(warehouse, "validation", ingested, "run1") == train
    before = content(warehouse)
    assert write_snapshot(warehouse, "validation", ingested, "run2") == train
    assert content(warehouse) == before
    assert counts(warehouse) == {"examples": 6, "snapshot_examples": 6, "rejected_rows": 1, "snapshots": 2, "receipts": 1}
    warehouse.point("snapshot", train)
    assert query(warehouse, "SELECT count(*), sum(multiplicity) FROM examples") == [(6, 6)]
    assert query(warehouse, "SELECT role FROM snapshots ORDER BY ALL") == [("train",), ("validation",)]


def test_the_examples_view_shows_the_current_snapshot_alone(warehouse, tmp_path):
    old = write_snapshot(warehouse, "train", ingest(tmp_path, ROWS), "run1")
    new = write_snapshot(warehouse, "train", ingest(tmp_path, [ROWS[1], ROWS[1], ROWS[2]]), "run2")
    assert query(warehouse, "FROM examples") == []  # nothing is current yet
    warehouse.point("snapshot", new)
    rows = query(warehouse, "SELECT content, source, multiplicity, extra, file, line, snapshot_id FROM examples ORDER BY content")
    assert [(json.loads(row[0]), *row[1:3], json.loads(row[3]), *row[4:]) for row in rows] == [
        ({"prompt": "q1", "response": "a1"}, "web", 2, {"grade": 1}, "train.jsonl", 1, new),
        ({"prompt": "q2", "response": "a2"}, None, 1, {"grade": 2}, "train.jsonl", 3, new),
    ]
    assert query(warehouse, "SELECT snapshot_id, is_current FROM snapshots ORDER BY is_current") == [(old, False), (new, True)]


# ---- sequences


def sequence_rows(*rows):
    """Rows of write_sequences: (example_id, token_ids, response_positions, end_of_turn_positions), or (example_id, reason, detail)."""
    made = []
    for example_id, *rest in rows:
        row = {"example_id": full(example_id), "branch": "sft"}
        if isinstance(rest[0], str):
            row |= {"reason": rest[0], "detail": rest[1]}
        else:
            ids, positions, ends = rest
            row |= {"sequence_id": sequence_identity("sft", *rest), "token_ids": ids, "response_positions": positions}
            row |= {"end_of_turn_positions": ends, "num_prompt_tokens_cut": 0, "num_response_tokens_cut": 0}
        made.append(row)
    return pa.Table.from_pylist(made, schema=SEQUENCE_SCHEMA)


def test_examples_that_become_the_same_sequence_store_it_once(warehouse):
    rows = sequence_rows(("e1", [1, 2], [1], [1]), ("e2", [1, 2], [1], [1]), ("e3", [1, 3], [1], []), ("e4", "empty response", "of 3"))
    write_sequences(warehouse, "tok", "vocab", {"b": 1, "a": 2}, rows, "run")
    write_sequences(warehouse, "tok", "vocab", {"b": 1, "a": 2}, sequence_rows(("e5", [1, 3], [1], [])), "run")
    assert counts(warehouse) == {"tokenizations": 1, "sequences": 2, "example_sequences": 5, "receipts": 2}
    assert query(warehouse, "SELECT record.hex_id(example_id), reason, detail FROM record.example_sequences WHERE sequence_id IS NULL") == [
        (full("e4"), "empty response", "of 3")
    ]
    assert query(warehouse, "SELECT tokenizer_digest, settings FROM record.tokenizations") == [("vocab", '{"a": 2, "b": 1}')]


def test_another_tokenization_shares_the_sequences_that_are_the_same(warehouse):
    write_sequences(warehouse, "tok", "vocab", {}, sequence_rows(("e1", [1, 2], [1], [1]), ("e2", [3, 4], [1], [1])), "run")
    write_sequences(warehouse, "tok2", "vocab", {}, sequence_rows(("e1", [1, 2], [1], [1]), ("e2", [3, 4], [0, 1], [1])), "run")
    assert counts(warehouse) == {"tokenizations": 2, "sequences": 3, "example_sequences": 4, "receipts": 2}


def test_tokens_and_what_counts_of_them_make_a_sequence():
    variants = [
        ("sft", [1, 2], [1], [1]),
        ("rejected", [1, 2], [1], [1]),
        ("sft", [1, 3], [1], [1]),
        ("sft", [1, 2], [0, 1], [1]),
        ("sft", [1, 2], [1], []),
    ]
    assert len({sequence_identity(*one) for one in variants}) == len(variants)
    assert sequence_identity("chosen", [1, 2], [1], [1]) == sequence_identity("sft", [1, 2], [1], [1])  # the same weight
    assert sequence_identity("sft", (1, 2), (1,), ()) == sequence_identity("sft", [1, 2], [1], [])


def test_a_vocabulary_is_stored_once_per_tokenizer(warehouse):
    write_vocabulary(warehouse, "v", ["a", "b"])
    write_vocabulary(warehouse, "v", ["a", "b"])
    write_vocabulary(warehouse, "w", ["c"])
    assert query(warehouse, "SELECT tokenizer_digest, token_id, token FROM record.vocabulary ORDER BY ALL") == [
        ("v", 0, "a"), ("v", 1, "b"), ("w", 0, "c"),
    ]  # fmt: skip


# ---- values


def shard(*sequence_ids, first=0.0):
    """A part: NULL where the first token has no loss, and one value that was not finite."""
    rows = [
        {
            "sequence_id": full(name),
            "adapt_direct": [None, first + 1, 2], "adapt_causal": [None, 0.5, 0.0], "adapt_prompt_context": 2.5,
            "stab_direct": [None, 3, 4], "stab_causal": [1, 1, 0.0], "stab_prompt_context": None,
            "loss": [None, 0.1, 0.2], "entropy": [None, 1, 1],
        }
        for name in sequence_ids
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PART_SCHEMAS["scoring"])


def test_a_shard_committed_twice_is_there_once_with_one_receipt(warehouse):
    assert commit_shard(warehouse, GROUPS, shard("s1", "s2"), "run1") == 2
    before = content(warehouse)
    assert commit_shard(warehouse, GROUPS, shard("s1", "s2", first=70), "run2") == 2
    assert content(warehouse) == before
    assert counts(warehouse) == {"direction_values": 4, "signal_values": 2, "receipts": 1}


def test_an_overlapping_shard_adds_what_is_missing_and_leaves_the_rest(warehouse):
    commit_shard(warehouse, GROUPS, shard("s1", "s2"), "run1")
    commit_shard(warehouse, GROUPS, shard("s2", "s3", first=70), "run2")
    values = "SELECT record.hex_id(sequence_id), direct[2] FROM record.direction_values WHERE values_id = 'A' ORDER BY ALL"
    assert short(query(warehouse, values)) == [("s1", 1.0), ("s2", 1.0), ("s3", 71.0)]
    assert counts(warehouse) == {"direction_values": 6, "signal_values": 3, "receipts": 2}


def test_lists_with_null_survive_and_null_is_neither_nan_nor_zero(warehouse):
    commit_shard(warehouse, GROUPS, shard("s1"), "run")
    rows = query(warehouse, "SELECT values_id, direct, causal, prompt_context FROM record.direction_values ORDER BY values_id")
    assert rows == [("A", [None, 1.0, 2.0], [None, 0.5, 0.0], 2.5), ("S", [None, 3.0, 4.0], [1.0, 1.0, 0.0], None)]
    ((loss, entropy),) = query(warehouse, "SELECT loss, entropy FROM record.signal_values")
    assert loss == [None, pytest.approx(0.1), pytest.approx(0.2)]
    assert entropy == [None, 1.0, 1.0]


def test_a_group_alone_touches_no_other(warehouse):
    commit_shard(warehouse, GROUPS, shard("s1"), "run")
    before = content(warehouse)
    commit_shard(warehouse, {"adapt": "A2"}, shard("s1", first=5), "run")  # a new validation set
    after = content(warehouse)
    assert after["signal_values"] == before["signal_values"]
    assert query(warehouse, "SELECT values_id, direct[2] FROM record.direction_values ORDER BY ALL") == [
        ("A", 1.0),
        ("A2", 6.0),
        ("S", 3.0),
    ]
    reference = pa.Table.from_pylist([{"sequence_id": full("s1"), "loss": [1.0], "entropy": [2.0]}], schema=PART_SCHEMAS["reference"])
    commit_shard(warehouse, {"ref_signals": "R"}, reference, "run")
    assert query(warehouse, "SELECT signals_id, loss[1] FROM record.signal_values ORDER BY ALL") == [("G", None), ("R", 1.0)]


def test_a_shard_that_fails_halfway_leaves_nothing(warehouse):
    rows = shard("s1").drop_columns(["loss"])  # the signals, which come last, cannot be written
    with pytest.raises(duckdb.BinderException, match="loss"):  # the cause, not the state it left behind
        commit_shard(warehouse, GROUPS, rows, "run")
    assert counts(warehouse) == {}
    assert commit_shard(warehouse, GROUPS, shard("s1"), "run") == 1


def test_an_empty_shard_has_its_receipt(warehouse):
    assert commit_shard(warehouse, GROUPS, shard(), "run") == 0
    assert counts(warehouse) == {"receipts": 1}


# ---- scorings, trainings, runs


def test_a_scoring_becomes_current_once(warehouse):
    assert write_scoring(warehouse, IDS, "tok", "snap", {"z": 1}, "run1")
    before = content(warehouse)
    assert not write_scoring(warehouse, IDS, "tok", "snap", {"z": 1}, "run2")
    assert content(warehouse) == before
    assert [warehouse.pointer(name) for name in ("snapshot", "tokenization", "scoring")] == ["snap", "tok", IDS.scoring_id("tok")]
    assert counts(warehouse) == {"scorings": 1, "pointers": 3}


def test_values_of_the_validation_set_whose_scoring_was_pruned_are_told_anew(warehouse):
    held = ValueIdentities("H", "S", "G", "R")
    assert write_held_out(warehouse, held, "tok", {"held_out_of": "x"}, "run1")
    assert not write_held_out(warehouse, held, "tok", {"held_out_of": "x"}, "run2")
    warehouse.con.execute("DELETE FROM record.scorings").fetchall()
    assert write_held_out(warehouse, held, "tok", {"held_out_of": "x"}, "run3")
    assert counts(warehouse) == {"scorings": 1, "pointers": 1}


def test_a_new_alignment_is_noted_with_the_scoring_and_changes_nothing_else(warehouse):
    said = {"z": 1, "stability_alignment": {"scope": 0.5}}
    write_scoring(warehouse, IDS, "tok", "snap", said, "run1")
    assert not write_scoring(warehouse, IDS, "tok", "snap", {**said, "z": 2}, "run2")
    again = {**said, "stability_alignment": {"scope": 0.25}}
    assert write_scoring(warehouse, IDS, "tok", "snap", again, "run2")
    rows = warehouse.con.execute("SELECT scoring_id, settings, run_id FROM record.scorings").fetchall()
    assert [(row[0], json.loads(row[1]), row[2]) for row in rows] == [(IDS.scoring_id("tok"), again, "run1")]
    assert counts(warehouse) == {"scorings": 1, "pointers": 3}


def test_a_new_snapshot_moves_the_pointer_and_stores_no_second_scoring(warehouse):
    write_scoring(warehouse, IDS, "tok", "snap", {}, "run1")
    assert write_scoring(warehouse, IDS, "tok", "snap2", {}, "run2")
    assert warehouse.pointer("snapshot") == "snap2"
    assert counts(warehouse) == {"scorings": 1, "pointers": 3}


def test_each_group_of_values_changes_the_scoring():
    names = ("adapt_values_id", "stab_values_id", "signals_id", "ref_signals_id")
    base = dict.fromkeys(names, "x")
    changed = {ValueIdentities(**{**base, name: "y"}).scoring_id("tok") for name in names}
    assert len({ValueIdentities(**base).scoring_id("tok"), ValueIdentities(**base).scoring_id("tok2"), *changed}) == 6


def test_a_training_written_again_replaces_the_one_before(warehouse):
    for run, value in (("run1", 2.0), ("run2", 1.0)):
        write_training(warehouse, "t", "default", "m", "r", "{}", "/checkpoint", [(0, "target_loss", 3.0), (9, "target_loss", value)], run)
    write_training(warehouse, "u", "default", "m", "r", "{}", "/checkpoint", [], "run3")
    assert query(warehouse, "SELECT training_id, step, metric, value FROM training_metrics ORDER BY ALL") == [
        ("t", 0, "target_loss", 3.0), ("t", 9, "target_loss", 1.0),
    ]  # fmt: skip
    assert query(warehouse, "SELECT training_id, run_id FROM trainings ORDER BY ALL") == [("t", "run2"), ("u", "run3")]


FACTS = {
    "flow": "value_tokens", "started_at": runs.utc_now(), "configuration": {"b": 1, "a": 2}, "versions": {"duckdb": "2"}, "git_sha": None,
    "seed": 3, "host": {"name": "here"},
}  # fmt: skip


def test_a_run_is_noted_once_and_told_its_end(warehouse):
    with warehouse.transaction():
        runs.start(warehouse, "r1", FACTS)
        runs.start(warehouse, "r1", FACTS)
    assert query(warehouse, "SELECT run_id, state, finished_at, configuration, seed FROM runs") == [
        ("r1", "running", None, '{"a": 2, "b": 1}', 3)
    ]
    assert runs.finish(warehouse, "r1", "completed", {"score": {"seconds": 1.5}}, None)
    ((state, counted, error, duration),) = query(warehouse, "SELECT state, counts, error, duration_s FROM runs")
    assert (state, json.loads(counted), error) == ("completed", {"score": {"seconds": 1.5}}, None)
    assert duration >= 0


def test_a_run_that_wrote_nothing_leaves_nothing_at_its_end(warehouse):
    before = content(warehouse)
    assert not runs.finish(warehouse, "r1", "completed", {"score": {}}, None)
    assert content(warehouse) == before


def test_a_run_that_a_killed_process_left_open_is_marked_by_the_next(warehouse):
    with warehouse.transaction():
        runs.start(warehouse, "killed", FACTS)
    with warehouse.transaction():
        runs.start(warehouse, "next", FACTS)
    runs.finish(warehouse, "next", "failed", None, "ValueError: no")
    assert query(warehouse, "SELECT run_id, state, error FROM runs ORDER BY ALL") == [
        ("killed", "interrupted", None), ("next", "failed", "ValueError: no"),
    ]  # fmt: skip


# ---- views, on rows written out by hand


def identified(rows):
    """Rows whose second column names a sequence, with its identity there."""
    return [(row[0], full(row[1]), *row[2:]) for row in rows]


@pytest.fixture(scope="module")
def valued(tmp_path_factory):
    """Two examples that share a sequence, one without a prompt, one rejected by the tokenizer; a mask; a second scoring."""
    floats = pl.List(pl.Float32)
    with Warehouse(tmp_path_factory.mktemp("views") / "wh") as warehouse:
        for statement in (
            # e1 and e2 share s1: tokens 5 6 7 8, the response is at 2 and 3. e3 is s2: 8 9, all response. e4 became none. old is not current.
            "INSERT INTO record.examples SELECT id, '{}' FROM unnest(['id:e1', 'id:e2', 'id:e3', 'id:e4', 'id:old']) AS t(id)",
            "INSERT INTO record.snapshot_examples VALUES ('now', 'id:e1', 1, 'web', NULL, 'f', 1), "
            "('now', 'id:e2', 2, NULL, NULL, 'f', 2), "
            "('now', 'id:e3', 1, 'web', NULL, 'f', 4), ('now', 'id:e4', 1, 'web', NULL, 'g', 1), "
            "('then', 'id:old', 1, 'gone', NULL, 'f', 1)",
            "INSERT INTO record.snapshots VALUES ('now', 'train', 'sft', 4, 6, 1, 'run', TIMESTAMP '2026-01-02'), "
            "('then', 'train', 'sft', 1, 1, 0, 'run', TIMESTAMP '2026-01-01')",
            "INSERT INTO record.rejected_rows VALUES ('now', 'f', 3, 'not JSON', 'gibberish'), ('then', 'f', 9, 'not JSON', 'before')",
            "INSERT INTO record.tokenizations VALUES ('tok', 'vocab', '{}', 'run', TIMESTAMP '2026-01-01')",
            "INSERT INTO record.vocabulary SELECT 'vocab', i, 'word' || i FROM range(9) AS t(i)",  # 9 is not in it
            "INSERT INTO record.vocabulary SELECT 'another', i, 'other' || i FROM range(20) AS t(i)",
            "INSERT INTO record.example_sequences VALUES ('tok', 'id:e1', 'sft', 'id:s1', 1, 0, NULL, NULL), "
            "('tok', 'id:e2', 'sft', 'id:s1', 0, 0, NULL, NULL), "
            "('tok', 'id:e3', 'sft', 'id:s2', 0, 2, NULL, NULL), "
            "('tok', 'id:e4', 'sft', NULL, NULL, NULL, 'empty response', 'nothing to learn'), "
            "('tok', 'id:old', 'sft', 'id:s3', 0, 0, NULL, NULL), ('tok2', 'id:e1', 'sft', 'id:s9', 0, 0, NULL, NULL), "
            "('tok2', 'id:e3', 'sft', NULL, NULL, NULL, 'too long', 'elsewhere')",
            "INSERT INTO record.sequences VALUES ('id:s1', [5, 6, 7, 8], [2, 3], [3]), ('id:s2', [8, 9], [0, 1], []), "
            "('id:s3', [5, 6], [1], [1]), ('id:s9', [1], [0], [])",
            "INSERT INTO record.scorings VALUES ('sc', 'tok', 'A', 'S', 'G', 'R', '{}', 'run', TIMESTAMP '2026-01-01'), "
            "('sc2', 'tok', 'A2', 'S', 'G', 'R', '{}', 'run', TIMESTAMP '2026-01-01')",
            "INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at) VALUES ('m', 'default', '{}', 'sc', 'now', 4, 3, 'run', TIMESTAMP '2026-01-01'), "
            "('m-old', 'default', '{}', 'sc', 'now', 4, 4, 'run', TIMESTAMP '2026-01-01'), ('m2', 'none', '{}', 'sc2', 'now', 0, 0, 'run', TIMESTAMP '2026-01-01')",
            "INSERT INTO record.mask_values (mask_id, sequence_id, keep) VALUES ('m', 'id:s1', [true, false]), "
            "('m', 'id:s2', [false, true]), ('m-old', 'id:s1', [true, true]), "
            "('m', 'id:s3', [true]), ('m2', 'id:s1', [true, true])",
        ):
            warehouse.con.execute(filled(statement)).fetchall()
        # Σ direct = Σ causal + prompt_context: 3 = 1 + 2, and 1.5 = 0.25 + 1.25, 6 = 6 + 0 without a prompt.
        values = [
            ("A", "s1", [1.0, 2.0], [1.0, 0.0], 2.0), ("A", "s2", [None, 6.0], [6.0, 0.0], 0.0), ("A", "s3", [9.0], [0.0], 9.0),
            ("S", "s1", [1.0, 0.5], [0.25, 0.0], 1.25), ("S", "s2", [None, None], [None, 0.0], None), ("S", "s3", [9.0], [0.0], 9.0),
            ("A2", "s1", [10.0, 20.0], [1.0, 0.0], 29.0),
        ]  # fmt: skip
        signals = [
            ("G", "s1", [0.5, 1.5], [2.0, 4.0], [-1.0, 2.0]), ("G", "s2", [None, 3.0], [None, 1.0], [None, 7.0]),
            ("G", "s3", [1.0], [1.0], [1.0]), ("R", "s1", [1.0, 3.0], [9.0, 9.0], None), ("R", "s2", [None, 5.0], [None, 9.0], None),
            ("R", "s3", [1.0], [1.0], None),
        ]  # fmt: skip
        columns = {"id": pl.String, "sequence_id": pl.String}
        warehouse.con.register(
            "v", pl.DataFrame(identified(values), {**columns, "direct": floats, "causal": floats, "context": pl.Float64}, orient="row")
        )
        warehouse.con.register(
            "g", pl.DataFrame(identified(signals), {**columns, **dict.fromkeys(("loss", "entropy", "margin"), floats)}, orient="row")
        )
        warehouse.con.execute("INSERT INTO record.direction_values SELECT * FROM v").fetchall()
        warehouse.con.execute(
            "INSERT INTO record.signal_values (signals_id, sequence_id, loss, entropy, margin) SELECT * FROM g"
        ).fetchall()
        for name, value in {"snapshot": "now", "tokenization": "tok", "scoring": "sc", "mask:default": "m", "mask:none": "m2"}.items():
            warehouse.point(name, value)
        yield warehouse


S1 = [
    (2, 7, "word7", 1.0, 1.0, 1.0, 0.25, 0.5, 1.0, 2.0, -1.0, None, None),
    (3, 8, "word8", 2.0, 0.0, 0.5, 0.0, 1.5, 3.0, 4.0, 2.0, None, None),
]  # fmt: skip
S2 = [
    (0, 8, "word8", None, 6.0, None, None, None, None, None, None, None, None),
    (1, 9, None, 6.0, 0.0, None, 0.0, 3.0, 5.0, 1.0, 7.0, None, None),
]  # fmt: skip


def test_token_values_has_a_row_per_example_and_response_token(valued):
    assert short(query(valued, "FROM token_values ORDER BY example_id, position")) == [
        *(("sc", "e1", "s1", "sft", "web", *row) for row in S1),
        *(("sc", "e2", "s1", "sft", None, *row) for row in S1),
        *(("sc", "e3", "s2", "sft", "web", *row) for row in S2),
    ]


def test_token_values_all_has_the_other_scorings_and_the_deleted_examples_too(valued):
    rows = query(valued, "FROM token_values_all ORDER BY scoring_id, example_id, position")
    assert short(rows) == [
        *(("sc", "e1", "s1", "sft", "web", *row) for row in S1),
        *(("sc", "e2", "s1", "sft", None, *row) for row in S1),
        *(("sc", "e3", "s2", "sft", "web", *row) for row in S2),
        ("sc", "old", "s3", "sft", "gone", 1, 6, "word6", 9.0, 0.0, 9.0, 0.0, 1.0, 1.0, 1.0, 1.0, None, None),
        *(("sc2", "e1", "s1", "sft", "web", *row[:3], 10 * row[3], *row[4:]) for row in S1),
        *(("sc2", "e2", "s1", "sft", None, *row[:3], 10 * row[3], *row[4:]) for row in S1),
    ]


def test_an_example_whose_last_source_is_none_has_none_among_all_scorings(tmp_path):
    folder = written.make(tmp_path / "wh")
    with Warehouse(folder) as warehouse:
        of_e1 = filled("SELECT DISTINCT source FROM token_values_all WHERE example_id = 'id:e1'")
        assert query(warehouse, of_e1) == [("a",)]
        warehouse.con.execute(
            filled("UPDATE record.snapshot_examples SET source = NULL WHERE snapshot_id = 'snap' AND example_id = 'id:e1'")
        )
        assert query(warehouse, of_e1) == [(None,)]  # not the b of the snapshot before


def test_example_values_are_sums_of_values_and_means_of_signals_over_the_tokens_that_have_them(valued):
    one = ("sft", 2, 3.0, 1.0, 2.0, 1.5, 0.25, 1.25, 1.0, 2.0, 3.0, 0.5, None, None)
    assert short(query(valued, "SELECT * EXCLUDE (scoring_id, sequence_id, source) FROM example_values ORDER BY example_id")) == [
        ("e1", *one),
        ("e2", *one),
        ("e3", "sft", 2, 6.0, 6.0, 0.0, None, 0.0, None, 3.0, 5.0, 1.0, 7.0, None, None),
    ]


def test_the_law_of_the_two_axes_can_be_checked_in_sql(valued):
    law = "SELECT example_id FROM example_values WHERE abs({0}_direct - {0}_causal - {0}_prompt_context) > 1e-6 ORDER BY ALL"
    assert query(valued, law.format("adapt")) == []
    assert query(valued, law.format("stab")) == []
    try:
        valued.con.execute(
            filled("UPDATE record.direction_values SET prompt_context = prompt_context + 1 WHERE values_id = 'A' AND sequence_id = 'id:s2'")
        )
        assert query(valued, law.format("adapt")) == [(full("e3"),)]
    finally:
        valued.con.execute(
            filled("UPDATE record.direction_values SET prompt_context = prompt_context - 1 WHERE values_id = 'A' AND sequence_id = 'id:s2'")
        )


def test_example_values_add_in_double(valued):
    sums = query(valued, "SELECT typeof(adapt_direct), typeof(loss), sum(adapt_direct) FROM example_values GROUP BY ALL")
    assert [row[:2] for row in sums] == [("DOUBLE", "DOUBLE")]
    assert math.isclose(sums[0][2], 12.0)


def test_token_masks_show_the_current_masks_of_the_current_scoring(valued):
    assert short(query(valued, "FROM token_masks ORDER BY example_id, position")) == [
        ("m", "default", "e1", "s1", "sft", 2, True, 1.0),
        ("m", "default", "e1", "s1", "sft", 3, False, 0.0),
        ("m", "default", "e2", "s1", "sft", 2, True, 1.0),
        ("m", "default", "e2", "s1", "sft", 3, False, 0.0),
        ("m", "default", "e3", "s2", "sft", 0, False, 0.0),
        ("m", "default", "e3", "s2", "sft", 1, True, 1.0),
    ]
    assert query(valued, "SELECT mask_id, is_current, kept_share FROM masks ORDER BY ALL") == [
        ("m", True, 0.75), ("m-old", False, 1.0), ("m2", False, None),
    ]  # fmt: skip


def test_policies_that_share_a_mask_are_both_shown_under_their_own_name(valued):
    valued.point("mask:alike", "m")
    try:
        counted = query(valued, "SELECT policy, mask_id, count(*), count(*) FILTER (keep) FROM token_masks GROUP BY ALL ORDER BY ALL")
    finally:
        valued.run("runs/delete_pointer", name="mask:alike").fetchall()
    assert counted == [("alike", "m", 6, 3), ("default", "m", 6, 3)]


def test_values_and_masks_join_token_by_token(valued):
    kept = query(
        valued,
        "SELECT example_id, position, token, adapt_direct FROM token_values JOIN token_masks USING (example_id, branch, position) "
        "WHERE keep ORDER BY ALL",
    )
    assert short(kept) == [("e1", 2, "word7", 1.0), ("e2", 2, "word7", 1.0), ("e3", 1, None, 6.0)]


def test_rejected_rows_tell_stage_place_and_reason_of_the_current_data(valued):
    assert short(query(valued, "FROM rejected_rows ORDER BY stage")) == [
        ("train", "ingest", "f", 3, None, "not JSON", "gibberish", "now"),
        ("train", "tokenize", "g", 1, "e4", "empty response", "nothing to learn", "now"),
    ]


def test_sequences_are_those_of_the_current_snapshot_and_tokenization(valued):
    assert short(query(valued, "FROM sequences ORDER BY example_id")) == [
        ("e1", "s1", "sft", "web", 1, [5, 6, 7, 8], [2, 3], [3], 4, 2, 1, 0),
        ("e2", "s1", "sft", None, 2, [5, 6, 7, 8], [2, 3], [3], 4, 2, 0, 0),
        ("e3", "s2", "sft", "web", 1, [8, 9], [0, 1], [], 2, 2, 0, 2),
    ]


def test_scorings_say_which_is_current(valued):
    assert query(valued, "SELECT scoring_id, is_current, adapt_values_id FROM scorings ORDER BY ALL") == [
        ("sc", True, "A"),
        ("sc2", False, "A2"),
    ]
