"""Settings of the engine in whole runs: low-rank directions, packed rows, checkpoints; and `alphatoken selftest`."""

import json

import numpy as np
import pytest

from flows import self_test as flow

VALUES = "SELECT adapt_direct, adapt_causal, stab_direct, stab_causal, loss FROM token_values ORDER BY sequence_id, position"


@pytest.mark.parametrize("setting", ["packing", "activation_checkpointing"])
def test_ways_of_running_the_model_change_neither_identities_nor_values(valued, project, setting):
    assert valued.value(f"scoring.{setting}=true").counts["score"]["num_sequences"] == 0
    project.value(f"scoring.{setting}=true")
    expected, got = (np.array(one.sql(VALUES), dtype=float) for one in (valued, project))
    assert np.nanmax(np.abs(got - expected), axis=0) == pytest.approx(0, abs=1e-5 * np.nanmax(np.abs(expected)))


def test_low_rank_directions_are_artefacts_with_their_agreement_and_other_values(valued):
    told = valued.value("scoring.low_rank={rank: 4, min_spearman: 0.5, num_sequences: 5}")
    assert told.counts["directions"]["num_made"] == 2
    assert told.counts["score"]["num_sequences"] == 40
    stored = json.loads(valued.sql("SELECT settings FROM scorings WHERE is_current")[0][0])
    for name in ("adapt", "stab"):
        low = stored[name]["low_rank"]
        assert (low["rank"], low["num_sequences"]) == (4, 5)
        assert 0.5 <= low["spearman_target"] <= 1
        assert 0 < low["kept_energy"] <= 1
        assert stored[name]["digest"] != stored[name]["dense_digest"]
    again = valued.value("scoring.low_rank={rank: 4, min_spearman: 0.4}")  # how it is checked is no part of what it is
    assert (again.counts["directions"]["num_made"], again.counts["score"]["num_sequences"]) == (0, 0)
    with pytest.raises(ValueError, match=r"rank 4 change the order of the values too much .*min_spearman is 1\.0"):
        valued.value("scoring.low_rank={rank: 4, min_spearman: 1.0}")
    assert valued.value().counts["score"]["num_sequences"] == 0  # the dense values are still there


def test_status_foresees_low_rank_directions(valued):
    from tasks import status
    from tasks.settings import load
    from warehouse.read import Reader

    with Reader(valued.warehouse) as reader:
        told = dict(status.plan(load(valued.config, ["scoring.low_rank={rank: 4}"]), reader))
    assert told["directions"] == "low-rank adaptation direction, low-rank stability direction"


def test_engine_settings_of_another_estimator_are_refused(project):
    with pytest.raises(ValueError, match="low_rank, packing go with the estimator 'exact' only"):
        project.value("scoring.estimator=value_propagation", "scoring.low_rank={rank: 4}", "scoring.packing=true")


def test_selftest_measures_four_ways_and_leaves_what_value_would_make(valued):
    checks = flow.self_test(str(valued.config), ())
    names = [check.name for check in checks]
    for what in ("exact against the slow loop", "batched against single", "low rank against dense", "bfloat16 against float32"):
        assert sum(what in name for name in names) >= 4, what
    assert all(check.passed for check in checks)
    exact = [c for c in checks if "slow" in c.name]
    assert all(0 < c.value <= 1e-5 for c in exact)
    assert valued.value().wrote_release is False


@pytest.mark.parametrize("fault", [None, ValueError("nothing to check")])
def test_a_selftest_that_wrote_something_is_noted_as_ended_and_releases_nothing(project, monkeypatch, fault):
    from models.selftest import Check
    from tasks import selftest

    def checked(*_):
        if fault is not None:
            raise fault
        return [Check("one", "largest difference", 0.0, 1e-5, True), Check("two", "largest difference", 1.0, 1e-5, False)]

    monkeypatch.setattr(selftest, "selftest", checked)
    if fault is None:
        flow.self_test(str(project.config), ())
    else:
        with pytest.raises(ValueError, match="nothing to check"):
            flow.self_test(str(project.config), ())
    ((state, counts, error),) = project.live("SELECT state, counts, error FROM record.runs WHERE flow = 'self_test'")
    assert (state, error) == (("completed", None) if fault is None else ("failed", "ValueError: nothing to check"))
    assert (None if counts is None else json.loads(counts)) == (None if fault else {"checks": {"num_passed": 1, "num_failed": 1}})
    assert not list(project.warehouse.glob("releases/*/*.duckdb"))


def test_selftest_of_a_model_that_moves_information_outside_attention_says_no(valued, monkeypatch, capsys):
    import sys

    from flows import cli
    from tasks import adapters

    load = adapters.load_scoring

    def spoiled(*arguments):
        model = load(*arguments)
        model.model.norm.register_forward_hook(lambda module, args, output: output + 0.1 * output.mean(1, keepdim=True))
        return model

    monkeypatch.setattr(adapters, "load_scoring", spoiled)
    monkeypatch.setattr(sys, "argv", ["alphatoken", "selftest", str(valued.config)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "do not trust these values" in out
