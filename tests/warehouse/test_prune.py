"""Laws of warehouse/prune.py and warehouse/compact.py: nothing current goes, what goes is foretold and goes whole, room is given back."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from tests.warehouse import written
from tests.warehouse.ids import filled, short
from warehouse import prune, runs, write
from warehouse.compact import compact
from warehouse.connect import DATABASE, Warehouse
from warehouse.ingest import SourceSettings, read_examples
from warehouse.prune import PruneRules
from warehouse.read import Reader
from warehouse.release import write_release
from warehouse.settings import WarehouseSettings

CONFIGURED = ("default", "random")
STRICT = PruneRules(keep_last=1, policies=CONFIGURED)
MORE = [  # another tokenization with a scoring of its own, artefacts of three scorings, and what an interrupted run left
    "tokenizations VALUES ('tok0', 'v0', '{}', 'run1', TIMESTAMP '2025-12-01')",
    "vocabulary VALUES ('v0', 0, 'x')",
    "example_sequences VALUES ('tok0', 'id:e1', 'sft', 'id:s0', 0, 0, NULL, NULL), ('tok', 'id:gone', 'sft', 'id:sg', 0, 0, NULL, NULL)",
    "sequences VALUES ('id:s0', [0, 1], [1], []), ('id:sg', [0, 1, 2], [1, 2], [])",
    "direction_values VALUES ('A1', 'id:s0', [1], [0], 0), ('A', 'id:sg', [1, 1], [0, 0], 0), "
    "('unknown', 'id:s1', [1, 1, 1, 1], [0, 0, 0, 0], 0)",
    "scorings VALUES ('older', 'tok0', 'A1', 'S', 'G', 'R', '{\"adapt\": {\"digest\": \"d0\"}, \"stab\": {\"digest\": \"d2\"}}', 'run1', TIMESTAMP '2025-12-01')",
    "artifacts VALUES ('k1', 'adapt', 'd1', 'artifacts/adapt-d1.x', '{}', '{}', 'before', 'run1', TIMESTAMP '2026-01-01')",
    "artifacts VALUES ('k0', 'adapt', 'd0', 'artifacts/adapt-d0.x', '{}', '{}', 'before', 'run1', TIMESTAMP '2026-01-01')",
    "artifacts VALUES ('k9', 'adapt', 'd9', 'artifacts/adapt-d9.x', '{}', '{}', 'before', 'run1', TIMESTAMP '2026-01-01')",
    "receipts VALUES ('ingest', 'snap', 4, 'run1', TIMESTAMP '2026-01-01'), ('ingest', 'before', 2, 'run1', TIMESTAMP '2026-01-01')",
    "receipts VALUES ('mask', 'm1', 3, 'run1', TIMESTAMP '2026-01-01'), ('mask', 'm0', 0, 'run1', TIMESTAMP '2026-01-01')",
    "receipts VALUES ('tokenize', 'x', 7, 'run1', TIMESTAMP '2026-01-01'), ('score', 'y', 9, 'run1', TIMESTAMP '2026-01-01')",
    "trainings VALUES ('t', 'outdated', 'm0', 'r', '{}', 'c', 'completed', 'run1', TIMESTAMP '2026-01-01')",
]  # fmt: skip
CURRENT = ("token_values", "token_masks", "example_values", "examples", "sequences", "rejected_rows", "trainings", "runs")
"""Views that pruning must not change."""


@pytest.fixture
def folder(tmp_path):
    with Warehouse(tmp_path) as warehouse, warehouse.transaction():
        for insert in [*written.INSERTS, *MORE]:
            warehouse.con.execute(filled(f"INSERT INTO record.{insert}")).fetchall()
        for number, token in enumerate(written.VOCABULARY):
            warehouse.con.execute("INSERT INTO record.vocabulary VALUES ('v', ?, ?)", [number, token]).fetchall()
    write_release(tmp_path, 2)
    (tmp_path / "artifacts").mkdir()
    for name in ("adapt-d0.x", "adapt-d1.x", "adapt-d9.x", "adapt-nobody.x"):
        (tmp_path / "artifacts" / name).write_bytes(b"1234")
    return tmp_path


def rows(folder, *views):
    with Warehouse(folder) as warehouse:
        return {view: warehouse.con.execute(f"SELECT * FROM {view} ORDER BY ALL").fetchall() for view in views}


def ids(folder, table, column):
    with Warehouse(folder) as warehouse:
        text = f"record.hex_id({column})" if column in ("example_id", "sequence_id") else column
        return short({row[0] for row in warehouse.con.execute(f"SELECT {text} FROM record.{table}").fetchall()})


def pruned(folder, rules=STRICT):
    with Warehouse(folder) as warehouse:
        found = prune.plan(warehouse, rules)
        prune.remove(warehouse, found, "run9")
    return found


def artifact_files(folder):
    return {path.name for path in (folder / "artifacts").iterdir()}


def test_planning_writes_nothing(folder):
    before = (folder / DATABASE).read_bytes()
    with Warehouse(folder) as warehouse:
        found = prune.plan(warehouse, STRICT)
    assert {gone.kind for gone in found.rows} >= {"scorings", "values", "masks", "sequences", "artifacts"}
    assert (folder / DATABASE).read_bytes() == before
    assert len(artifact_files(folder)) == 4


def test_nothing_current_goes_and_the_views_of_the_present_stay_as_they_are(folder):
    before = rows(folder, *CURRENT)
    pruned(folder)
    assert rows(folder, *CURRENT) == before
    assert ids(folder, "scorings", "scoring_id") == {"new"}
    assert ids(folder, "masks", "mask_id") == {"m1", "m2"}
    assert ids(folder, "pointers", "name") == {"snapshot", "tokenization", "scoring", "mask:default", "mask:random"}


def test_what_belongs_to_what_went_alone_goes_with_it(folder):
    found = pruned(folder)
    assert ids(folder, "direction_values", "values_id") == {"A", "S", "unknown"}
    assert ids(folder, "tokenizations", "tokenization_id") == {"tok"}
    assert ids(folder, "vocabulary", "tokenizer_digest") == {"v"}
    assert ids(folder, "sequences", "sequence_id") == {"s1", "s2", "s3"}  # sg is of a row that was deleted since
    assert ids(folder, "artifacts", "artifact_key") == {"k1", "k9"}
    assert artifact_files(folder) == {"adapt-d1.x", "adapt-d9.x"}
    numbers = {gone.kind: gone.number for gone in (*found.rows, *found.files)}
    assert numbers == {
        "scorings": 2, "values": 3, "masks": 1, "pointers": 1, "example_sequences": 2, "sequences": 2, "tokenizations": 1,
        "vocabulary": 1, "artifacts": 1, "artifact_files": 2,
    }  # fmt: skip
    assert next(gone for gone in found.rows if gone.kind == "values").num_bytes == 4 * (8 + 2 + 4)


def test_values_of_an_interrupted_run_stay_also_where_the_data_went_on_unless_they_are_asked_for(folder):
    with Warehouse(folder) as warehouse:  # of a scoring that is not there yet, for an example that the current snapshot has no more
        warehouse.con.execute(filled("INSERT INTO record.direction_values VALUES ('unknown', 'id:sg', [1, 1], [0, 0], 0)")).fetchall()
        warehouse.con.execute(
            filled("INSERT INTO record.signal_values (signals_id, sequence_id, loss) VALUES ('none yet', 'id:sg', [1, 1])")
        ).fetchall()
    pruned(folder)
    with Warehouse(folder) as warehouse:
        stored = "SELECT {} FROM record.{} WHERE sequence_id = 'id:sg'"
        assert warehouse.con.execute(filled(stored.format("values_id", "direction_values"))).fetchall() == [("unknown",)]
        assert warehouse.con.execute(filled(stored.format("signals_id", "signal_values"))).fetchall() == [("none yet",)]
    pruned(folder, PruneRules(keep_last=1, policies=CONFIGURED, unfinished=True))
    assert "unknown" not in ids(folder, "direction_values", "values_id")
    assert "none yet" not in ids(folder, "signal_values", "signals_id")


def test_what_a_killed_pruning_left_of_a_folder_goes_though_the_artefact_is_back(folder):
    left = folder / "artifacts" / ".warmup-d1.gone"
    left.mkdir()
    (left / "half").write_bytes(b"12")
    (folder / "artifacts" / "warmup-d1").mkdir()
    pruned(folder)
    assert artifact_files(folder) == {"adapt-d1.x", "adapt-d9.x", "warmup-d1"}


def test_a_snapshot_on_which_an_artefact_was_made_keeps_its_examples_until_that_goes(folder):
    pruned(folder)
    assert ids(folder, "examples", "example_id") >= {"gone"}
    with Warehouse(folder) as warehouse:
        warehouse.con.execute("DELETE FROM record.artifacts").fetchall()
    pruned(folder)
    assert ids(folder, "snapshots", "snapshot_id") == {"snap", "val"}
    assert ids(folder, "examples", "example_id") == {"e1", "e2", "e3", "e4"}
    assert ids(folder, "snapshot_examples", "snapshot_id") == {"snap"}


def test_a_second_pruning_finds_nothing(folder):
    pruned(folder)
    before = (folder / DATABASE).read_bytes()
    found = pruned(folder)
    assert (found.rows, found.files) == ((), ())
    assert (folder / DATABASE).read_bytes() == before


def test_the_newest_stay_by_number_and_the_younger_by_age(folder):
    assert ids(folder, "scorings", "scoring_id") == {"new", "old", "older"}
    pruned(folder, PruneRules(keep_last=3, policies=CONFIGURED))
    assert ids(folder, "scorings", "scoring_id") == {"new", "old", "older"}
    now = runs.utc_now()
    with Warehouse(folder) as warehouse:
        for scoring_id, days in (("new", 1), ("old", 5), ("older", 9)):
            made = [now - timedelta(days=days), scoring_id]
            warehouse.con.execute("UPDATE record.scorings SET created_at = ? WHERE scoring_id = ?", made).fetchall()
    pruned(folder, PruneRules(keep_last=1, older_than_days=7, policies=CONFIGURED))
    assert ids(folder, "scorings", "scoring_id") == {"new", "old"}
    pruned(folder, PruneRules(keep_last=2, policies=CONFIGURED))
    assert ids(folder, "scorings", "scoring_id") == {"new", "old"}
    pruned(folder, STRICT)
    assert ids(folder, "scorings", "scoring_id") == {"new"}


def test_the_mask_of_a_configured_policy_holds_its_scoring(folder):
    found = pruned(folder, PruneRules(keep_last=1, policies=(*CONFIGURED, "outdated")))
    assert ids(folder, "scorings", "scoring_id") == {"new", "old"}
    assert ids(folder, "masks", "mask_id") == {"m0", "m1", "m2"}
    assert ids(folder, "direction_values", "values_id") == {"A", "A0", "S", "unknown"}
    assert [why for kind, one, _, why in found.kept if one == "old"] == ["mask of policy outdated"]


def test_superseded_masks_of_the_present_scoring_go_by_number(folder):
    with Warehouse(folder) as warehouse:
        for n in (1, 2, 3):
            insert = f"INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at) VALUES ('a{n}', 'default', '{{}}', 'new', 'snap', 10, 5, 'run1', TIMESTAMP '2026-02-0{n}')"
            warehouse.con.execute(insert).fetchall()
    pruned(folder, PruneRules(keep_last=2, policies=CONFIGURED))
    assert ids(folder, "masks", "mask_id") == {"m0", "m1", "m2", "a2", "a3"}
    pruned(folder)
    assert ids(folder, "masks", "mask_id") == {"m1", "m2", "a3"}


def test_what_an_interrupted_run_left_stays_until_it_is_asked_for(folder):
    plan_folder = folder / "work" / "plan"
    plan_folder.mkdir(parents=True)
    (plan_folder / "plan.json").write_text("{}")
    pruned(folder)
    assert "unknown" in ids(folder, "direction_values", "values_id")
    assert plan_folder.exists()
    pruned(folder, PruneRules(keep_last=1, unfinished=True, policies=CONFIGURED))
    assert ids(folder, "direction_values", "values_id") == {"A", "S"}
    assert ids(folder, "artifacts", "artifact_key") == {"k1"}
    assert artifact_files(folder) == {"adapt-d1.x"}
    assert list((folder / "work").iterdir()) == []


@pytest.mark.parametrize(("of", "stay"), [("new", True), ("old", False)])
def test_the_directions_of_folds_stay_as_long_as_the_scoring_they_belong_to(folder, of, stay):
    told = json.dumps({"held_out_of": of, "folds": [{"digest": "d9"}, {"digest": "d8"}]})
    with Warehouse(folder) as warehouse:
        warehouse.con.execute(
            "INSERT INTO record.scorings VALUES ('held', 'tok', 'H', 'S', 'G', 'R', ?, 'run1', TIMESTAMP '2026-01-01')", [told]
        )
    pruned(folder, PruneRules(keep_last=1, unfinished=stay, policies=CONFIGURED))
    assert ("k9" in ids(folder, "artifacts", "artifact_key")) == stay
    assert ("adapt-d9.x" in artifact_files(folder)) == stay
    assert ("held" in ids(folder, "scorings", "scoring_id")) == stay


def test_receipts_stand_for_what_is_left(folder):
    pruned(folder)
    with Warehouse(folder) as warehouse:
        receipts = warehouse.con.execute("SELECT stage, identity, num_rows FROM record.receipts ORDER BY ALL").fetchall()
    assert [row for row in receipts if row[0] in ("ingest", "mask")] == [("ingest", "before", 2), ("ingest", "snap", 4), ("mask", "m1", 3)]
    assert [row[2] for row in receipts if row[0] == "tokenize"] == [4]  # three sequences, one rejected example
    assert sorted(row[2] for row in receipts if row[0] == "score") == [1, 3, 3, 3, 3]


class Killed(BaseException):
    """Stands for a signal: nothing after it runs."""


@pytest.mark.parametrize("step", ["_renew_receipts", "receipt"])
def test_a_pruning_killed_before_its_commit_removed_nothing(folder, monkeypatch, step):
    def stop(*_):
        raise Killed

    tables = ("record.scorings", "record.direction_values", "record.receipts", "record.artifacts", "record.pointers")
    before = rows(folder, *tables)
    monkeypatch.setattr(prune, step, stop)
    with pytest.raises(Killed):
        pruned(folder)
    monkeypatch.undo()
    assert rows(folder, *tables) == before
    assert len(artifact_files(folder)) == 4
    assert pruned(folder).rows


def test_files_that_a_killed_pruning_left_go_with_the_next(folder, monkeypatch):
    def stop(*_):
        raise Killed

    monkeypatch.setattr(prune, "remove_files", stop)
    with pytest.raises(Killed):
        pruned(folder)
    monkeypatch.undo()
    assert len(artifact_files(folder)) == 4
    found = pruned(folder)
    assert found.rows == ()
    assert artifact_files(folder) == {"adapt-d1.x", "adapt-d9.x"}


def test_a_pruned_snapshot_can_be_ingested_again(tmp_path):
    data = tmp_path / "data.jsonl"

    def ingest(*answers):
        data.write_text("".join(json.dumps({"prompt": "p", "response": a}) + "\n" for a in answers))
        with Warehouse(tmp_path / "wh") as warehouse:
            found = write.write_snapshot(warehouse, "train", read_examples(SourceSettings(path=str(data)), tmp_path), "run")
            warehouse.point("snapshot", found)
        return found

    first = ingest("a", "b")
    ingest("b", "c")
    pruned(tmp_path / "wh", PruneRules(keep_last=1))
    assert len(ids(tmp_path / "wh", "examples", "example_id")) == 2
    assert ingest("a", "b") == first
    assert len(rows(tmp_path / "wh", "examples")["examples"]) == 2


def test_wrong_rules_are_refused():
    for rules in ({"keep_last": 0}, {"older_than_days": -1}):
        with pytest.raises(ValueError, match=r"--keep-last .*at least 1.*--older-than .*at least 0"):
            PruneRules(**rules)


# ---- room


def fill(folder, values_id, num_rows=4000):
    with Warehouse(folder) as warehouse, warehouse.transaction():
        warehouse.point("filled", values_id)
        warehouse.con.execute(
            "INSERT INTO record.direction_values SELECT $id, md5(i::VARCHAR), [hash(i + n)::FLOAT FOR n IN range(100)], NULL, 0 FROM range($n) AS t(i)",
            {"id": values_id, "n": num_rows},
        ).fetchall()


def content(folder):
    """Everything a database holds, in the order it is stored."""
    with Warehouse(folder) as warehouse:
        tables = [row[0] for row in warehouse.con.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'record'").fetchall()]
        views = "SELECT schema_name, view_name, comment, sql FROM duckdb_views() WHERE database_name = 'alphatoken' AND NOT internal ORDER BY ALL"
        columns = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE database_name = 'alphatoken' ORDER BY ALL"
        stored = {table: warehouse.con.execute(f"FROM record.{table}").fetchall() for table in sorted(tables)}
        return stored, warehouse.con.execute(views).fetchall(), warehouse.con.execute(columns).fetchall()


def emptied(folder):
    """A warehouse of which half is free."""
    for values_id in ("one", "two"):
        fill(folder, values_id)
    write_release(folder, 2)
    with Warehouse(folder) as warehouse:
        warehouse.con.execute("DELETE FROM record.direction_values WHERE values_id = 'one'").fetchall()


def test_a_file_of_which_much_is_free_is_written_anew_with_the_same_content(folder):
    emptied(folder)
    before, size = content(folder), (folder / DATABASE).stat().st_size
    with Reader(folder) as reader:
        _, done = compact(folder, WarehouseSettings())
        assert done
        assert reader.sql("SELECT count(*) AS n FROM record.direction_values WHERE values_id = 'one'").rows() == [(4000,)]
    assert (folder / DATABASE).stat().st_size < 0.7 * size
    assert content(folder) == before
    again, done = compact(folder, WarehouseSettings())
    assert (again.num_free_bytes < again.num_bytes / 4, done) == (True, False)
    assert not list(folder.glob(".*"))


def test_a_full_file_is_left_as_it_is(folder):
    fill(folder, "one")
    with Warehouse(folder):
        pass
    before = (folder / DATABASE).read_bytes()
    assert not compact(folder, WarehouseSettings())[1]
    assert (folder / DATABASE).read_bytes() == before


def test_without_room_for_a_copy_the_file_keeps_its_size_and_it_is_said(folder, monkeypatch, told):
    emptied(folder)
    before, size = content(folder), (folder / DATABASE).stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert not compact(folder, WarehouseSettings())[1]
    assert "keeps its size: a smaller copy needs" in told.text
    assert ((folder / DATABASE).stat().st_size, content(folder)) == (size, before)


def test_a_copy_that_fails_leaves_the_old_file_and_nothing_beside_it(folder, monkeypatch):
    emptied(folder)
    before = content(folder)
    monkeypatch.setattr(
        "warehouse.compact.attach", lambda con, path, name: path.write_text("half") and con.execute("SELECT error('no room')").fetchall()
    )
    with pytest.raises(duckdb.Error, match="no room"):
        compact(folder, WarehouseSettings())
    monkeypatch.undo()
    assert not list(folder.glob(".*"))
    assert content(folder) == before


def test_a_copy_that_was_killed_leaves_the_old_file_and_goes_with_the_next(folder, monkeypatch):
    emptied(folder)
    before = content(folder)

    def stop(*_):
        raise Killed

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(Killed):
        compact(folder, WarehouseSettings())
    monkeypatch.undo()
    assert list(folder.glob(f".{DATABASE}.compact*"))
    assert content(folder) == before
    with duckdb.connect(str(folder / DATABASE), read_only=True):
        pass
    assert compact(folder, WarehouseSettings())[1]
    assert content(folder) == before
    assert not list(folder.glob(".*"))
