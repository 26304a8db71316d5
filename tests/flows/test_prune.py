"""Laws of flows/prune.py on a valued project: the present stays, an unchanged run writes nothing, what went is computed again as it was."""

from tests.flows.test_kill import check_order
from tests.flows.world import purchases, stored

OTHER = "scoring.fisher.num_sequences=9"
PRESENT = ("token_values", "token_masks", "example_values", "examples", "sequences", "rejected_rows", "scorings", "masks")


def test_pruned_warehouse_runs_on_and_computes_what_went_as_it_was(valued):
    first = stored(valued)
    valued.value(OTHER)
    present = {view: valued.sql(f"SELECT * FROM {view} ORDER BY ALL") for view in PRESENT[:6]}
    before = valued.bytes_of_warehouse()
    foretold = valued.prune(keep_last=1)
    assert valued.bytes_of_warehouse() == before

    done = valued.prune(keep_last=1, apply=True)
    assert (foretold.plan.rows, foretold.plan.files, foretold.releases) == (done.plan.rows, done.plan.files, done.releases)
    assert {gone.kind: gone.number for gone in done.plan.rows} == {
        "scorings": 1, "values": 40, "masks": 3, "mask_values": 120, "artifacts": 3,
    }  # fmt: skip
    assert {view: valued.sql(f"SELECT * FROM {view} ORDER BY ALL") for view in PRESENT[:6]} == present
    assert valued.sql("SELECT count(*) FROM scorings") == [(1,)]
    assert valued.sql("SELECT flow, state FROM runs ORDER BY started_at DESC LIMIT 1") == [("prune", "completed")]
    check_order(valued)

    before = valued.bytes_of_warehouse()
    assert not valued.value(OTHER).wrote_release
    assert not valued.prune(keep_last=1, apply=True).plan.rows
    assert valued.bytes_of_warehouse() == before

    valued.value()
    again = stored(valued)
    for table in ("direction_values", "signal_values", "mask_values"):
        assert set(map(repr, first[table])) <= set(map(repr, again[table])), table
    check_order(valued)


def test_values_of_deleted_rows_go_and_those_who_come_back_are_computed_again(valued):
    first, rows = stored(valued), valued.train_rows()
    valued.write_train([*rows[:-5], *purchases(99, 6)])
    valued.value()
    valued.prune(keep_last=1, apply=True)
    assert valued.live("SELECT count(*) FROM record.direction_values") == [(2 * 41,)]
    valued.write_train(rows)
    done = valued.value()
    assert (done.counts["score"]["num_sequences"], done.counts["directions"]["num_made"]) == (5, 0)
    after = stored(valued)
    for table in ("direction_values", "signal_values"):
        keys = {row[:2] for row in first[table]}
        assert sorted(row[:2] for row in after[table] if row[:2] in keys) == sorted(keys)
    assert set(map(repr, first["mask_values"])) <= set(map(repr, after["mask_values"]))
