"""Laws of warehouse/alerts.py: what is measured, what is left out, and that equal data raise no alert."""

import math

import pytest

from tests.warehouse.ids import filled
from tests.warehouse.written import make
from warehouse.alert_settings import AddedPsiRule, AlertSettings, BadRowsRule, KeptShareRule, KsRule, NullShareRule, PsiRule
from warehouse.alerts import COLUMNS, compare, ks, psi
from warehouse.connect import Warehouse
from warehouse.holds import held, hold, unhold
from warehouse.queries import Queries
from warehouse.release import current_release, is_released, opened, write_release

EVERYTHING = AlertSettings(
    kept_share=KeptShareRule(limit=0), psi=PsiRule(limit=0), ks=KsRule(limit=0), added_psi=AddedPsiRule(limit=0),
    null_share=NullShareRule(limit=0), bad_rows=BadRowsRule(limit=0), min_tokens=1,
)  # fmt: skip


def execute(warehouse, *statements):
    with warehouse.transaction():
        for statement in statements:
            warehouse.con.execute(filled(statement)).fetchall()


def figures(folder, settings=EVERYTHING, *statements):
    """Compare a changed warehouse with its release: (rule, what) to finding."""
    with Warehouse(folder) as now, opened(folder) as (con, _):
        execute(now, *statements)
        found = compare(now, Queries(con), settings)
    assert len({(one.rule, one.what) for one in found}) == len(found)
    return {(one.rule, one.what): one for one in found}


def test_psi_and_ks_of_two_bins_by_hand():
    assert psi([3, 1], [1, 3]) == pytest.approx(2 * (3.5 - 1.5) / 5 * math.log(3.5 / 1.5))
    assert ks([3, 1], [1, 3]) == pytest.approx(0.5)
    assert psi([5, 5], [5, 5]) == ks([5, 5], [50, 50]) == 0
    assert psi([0, 10], [10, 0]) < math.inf
    assert ks([0, 10], [10, 0]) == 1


def test_what_did_not_change_has_no_drift(tmp_path):
    found = figures(make(tmp_path / "wh"))
    compared = [one for (rule, _), one in found.items() if rule in ("psi", "ks", "kept_share")]
    assert len(compared) == 2 * len(COLUMNS) + 4  # two policies, two sources
    assert {one.figure for one in compared} == {0.0}
    assert not any(one.fired for one in compared)
    assert ("added_psi", "loss") not in found


def test_missing_values_and_bad_rows_are_counted(tmp_path):
    found = figures(make(tmp_path / "wh"))
    assert found["null_share", "adapt_direct"].figure == pytest.approx(1 / 10)
    assert found["null_share", "loss"].figure == 0
    assert found["bad_rows", "data.train"].figure == pytest.approx(1 / 5)
    assert found["bad_rows", "data.train"].fired


def test_an_unusable_example_counts_as_often_as_its_row_stands_in_the_data(tmp_path):
    found = figures(
        make(tmp_path / "wh"), EVERYTHING,
        "UPDATE record.snapshot_examples SET multiplicity = 3 WHERE example_id = 'id:e4'",
        "UPDATE record.snapshots SET num_rows = 9, num_rejected = 2 WHERE snapshot_id = 'snap'",
    )  # fmt: skip
    assert found["bad_rows", "data.train"].figure == pytest.approx((2 + 3) / 9)


def test_a_policy_that_is_no_longer_made_has_no_current_mask_and_raises_no_alert(tmp_path):
    found = figures(make(tmp_path / "wh"), EVERYTHING, "UPDATE record.masks SET num_kept = 3 WHERE mask_id = 'm0'")  # of an old scoring
    assert {one.what.split(",")[0] for one in found.values() if one.rule == "kept_share"} == {"policy default", "policy random"}


SHARED = (
    "UPDATE record.masks SET rows_id = 'rows of m1' WHERE mask_id = 'm1'",
    "UPDATE record.mask_values SET mask_id = 'rows of m1' WHERE mask_id = 'm1'",
)
"""As a mask is stored whose rows depend on no other sequence."""


@pytest.mark.parametrize("as_stored", [(), SHARED], ids=["own rows", "shared rows"])
def test_a_changed_mask_shows_in_its_policy_and_source_alone(tmp_path, as_stored):
    found = figures(
        make(tmp_path / "wh"),
        EVERYTHING,
        "UPDATE record.mask_values SET keep = [true, true, true, true], num_kept = 4 WHERE mask_id = 'm1' AND sequence_id = 'id:s1'",
        *as_stored,
    )
    fired = [one for one in found.values() if one.rule == "kept_share" and one.fired]
    assert [one.what for one in fired] == ["policy default, source a"]
    assert fired[0].figure == pytest.approx(2 / 6)
    assert fired[0].detail == "kept 66.7%, now 100.0%"


def test_values_beyond_the_old_ones_are_a_drift_of_their_column_alone(tmp_path):
    found = figures(
        make(tmp_path / "wh"),
        EVERYTHING,
        "UPDATE record.signal_values SET loss = [9, 9, 9, 9] WHERE signals_id = 'G' AND sequence_id = 'id:s2'",
    )
    assert {what for (rule, what), one in found.items() if rule in ("psi", "ks") and one.fired} == {"loss"}
    # of ten values the four 1s went above the largest edge: 0 | 1 1 1 1 1 | 2 2 2 | 3
    assert found["ks", "loss"].figure == pytest.approx(0.4)


def test_added_examples_are_compared_alone_with_all_that_were_there(tmp_path):
    folder = make(tmp_path / "wh")
    added = [
        "INSERT INTO record.examples VALUES ('id:e9', 'nine')",
        "INSERT INTO record.snapshots VALUES ('after', 'train', 'sft', 4, 6, 0, 'run1', TIMESTAMP '2026-02-01')",
        "INSERT INTO record.snapshot_examples SELECT 'after', example_id, multiplicity, source, extra, file, line "
        "FROM record.snapshot_examples WHERE snapshot_id = 'snap'",
        "INSERT INTO record.snapshot_examples VALUES ('after', 'id:e9', 1, 'a', NULL, 'f', 9)",
        "INSERT INTO record.example_sequences VALUES ('tok', 'id:e9', 'sft', 'id:s9', 0, 0, NULL, NULL)",
        "INSERT INTO record.sequences VALUES ('id:s9', [0, 1, 2], [1, 2], [])",
        "INSERT INTO record.direction_values VALUES ('A', 'id:s9', [1, 1], [0, 0], 0), ('S', 'id:s9', [1, 1], [0, 0], 0)",
        "INSERT INTO record.signal_values (signals_id, sequence_id, loss, entropy) VALUES ('G', 'id:s9', [50, 60], [0.5, 0.5]), ('R', 'id:s9', [2, 2], NULL)",
        "UPDATE record.pointers SET value = 'after' WHERE name = 'snapshot'",
    ]
    found = figures(folder, EVERYTHING, *added)
    assert found["added_psi", "loss"].figure > found["psi", "loss"].figure > 0
    assert found["added_psi", "loss"].detail == "10 values before, 2 added"


def test_too_few_tokens_are_not_compared_and_ignored_rules_measure_nothing(tmp_path):
    folder = make(tmp_path / "wh")
    found = figures(folder, AlertSettings(min_tokens=5))
    assert {what for rule, what in found if rule == "kept_share"} == {"policy default, source a", "policy random, source a"}
    ignored = AlertSettings(
        kept_share=KeptShareRule(action="ignore"), psi=PsiRule(action="ignore"), ks=KsRule(action="ignore"), added_psi=AddedPsiRule(action="ignore"),
        null_share=NullShareRule(action="ignore"), bad_rows=BadRowsRule(action="ignore"),
    )  # fmt: skip
    assert figures(folder, ignored) == {}


def test_without_an_earlier_release_only_missing_values_and_bad_rows_are_judged(tmp_path):
    with Warehouse(make(tmp_path / "wh")) as now:
        found = compare(now, None, EVERYTHING)
    assert {one.rule for one in found} == {"null_share", "bad_rows"}


def test_a_held_state_is_not_released_until_it_is_let_go(tmp_path):
    folder = make(tmp_path / "wh")
    first = current_release(folder)
    with Warehouse(folder) as warehouse:
        assert is_released(warehouse)
        execute(warehouse, "UPDATE record.pointers SET value = 'm2' WHERE name = 'mask:default'")
        assert not is_released(warehouse)
    hold(folder, "psi of loss")
    assert held(folder) == "psi of loss"
    assert write_release(folder, 2) == (first, False)
    unhold(folder)
    unhold(folder)
    assert held(folder) is None
    second, written = write_release(folder, 2)
    assert written
    assert second.release_id != first.release_id


def test_a_limit_must_be_a_number():
    with pytest.raises(ValueError, match="a limit is -1"):
        PsiRule(limit=-1)
    with pytest.raises(ValueError, match="min_tokens is 0"):
        AlertSettings(min_tokens=0)
