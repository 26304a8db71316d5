"""Laws of tasks/scoring.py: what lack of memory, faults and numbers that are not finite do to the stored values."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tests.flows.world import stored
from tests.warehouse.ids import full, short


@pytest.fixture
def scorer():
    from models.scoring import Scorer

    return Scorer


def out_of_memory_above(scorer, monkeypatch, num_sequences, kind=None):
    """Let batches of more sequences fail as CUDA does; note the sizes of those that are tried."""
    import torch

    tried, score = [], scorer.score

    def limited(self, token_ids, response_positions):
        tried.append(len(token_ids))
        if len(token_ids) > num_sequences:
            raise (kind or torch.cuda.OutOfMemoryError)("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return score(self, token_ids, response_positions)

    monkeypatch.setattr(scorer, "score", limited)
    return tried


def assert_same_values(found, expected):
    """Compare values of another plan: max |Δ| / max |v| of each sequence at most 1e-5 (DESIGN 4)."""
    for table in ("direction_values", "signal_values"):
        assert [row[:2] for row in found[table]] == [row[:2] for row in expected[table]]
        for one, other in zip(found[table], expected[table], strict=True):
            for a, b in zip(one[2:4], other[2:4], strict=True):
                assert (a is None) == (b is None)  # not all that is known of the scoring model is kept of the reference
                if b is not None:
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("kind", [None, RuntimeError])
def test_lack_of_memory_halves_the_batches_under_a_new_plan(project, valued_once, scorer, monkeypatch, told, kind):
    from tasks import scoring

    plans, make_plan = [], scoring.make_plan
    monkeypatch.setattr(scoring, "make_plan", lambda *arguments: plans.append(make_plan(*arguments)) or plans[-1])
    tried = out_of_memory_above(scorer, monkeypatch, 2, kind)
    done = project.value()
    assert done.counts["score"]["num_sequences"] == 40
    assert max(tried) > 2
    assert [max(map(len, (batch for part in plan.parts for batch in part))) for plan in plans] == [max(tried), 2] * 2
    assert len({plan.folder for plan in plans}) == 4
    assert "out of memory; going on with batches of 128 tokens" in told.text
    assert_same_values(stored(project), stored(valued_once))
    assert not (project.warehouse / "work").exists()


def test_parts_finished_before_memory_ran_out_are_kept(project, valued_once, scorer, monkeypatch):
    import torch

    calls, score = [], scorer.score

    def once(self, token_ids, response_positions):
        calls.append(tuple(map(tuple, token_ids)))
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, token_ids, response_positions)

    monkeypatch.setattr(scorer, "score", once)
    project.value()
    assert_same_values(stored(project), stored(valued_once))
    finished = {ids for call in calls[:4] for ids in call}  # two parts of two batches
    assert not finished & {ids for call in calls[6:10] for ids in call}


def test_fewer_tokens_per_batch_than_a_killed_run_had_plan_what_it_left_anew(project, valued_once, scorer, monkeypatch):
    """What the operating system kills for memory raises nothing: the user lowers the budget, and the next run must heed it."""
    calls, score = [], scorer.score

    def killed(self, token_ids, response_positions):
        calls.append(token_ids)
        if len(calls) == 6:
            raise RuntimeError("as if killed")
        return score(self, token_ids, response_positions)

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score", killed)
        with pytest.raises(RuntimeError, match="as if killed"):
            project.value()
    assert max(len(ids) * max(map(len, ids)) for ids in calls) > 128
    num_finished = sum(map(len, calls[:4]))  # two parts of two batches
    later = []
    monkeypatch.setattr(scorer, "score", lambda self, ids, positions: later.append(ids) or score(self, ids, positions))
    project.value("scoring.batch_tokens=128")
    assert max(len(ids) * max(map(len, ids)) for ids in later) <= 128
    assert sum(map(len, later)) == 2 * 40 - num_finished  # nothing twice
    assert_same_values(stored(project), stored(valued_once))


def test_sequence_that_never_fits_names_the_setting_to_lower(project, scorer, monkeypatch):
    with monkeypatch.context() as patch:
        out_of_memory_above(scorer, patch, 0)
        with pytest.raises(MemoryError, match=r"a single sequence of \d+ tokens does not fit; lower data.tokenize.max_length"):
            project.value()
    assert project.live("SELECT (SELECT count(*) FROM record.direction_values), (SELECT count(*) FROM record.scorings)") == [(0, 0)]
    assert not (project.warehouse / "releases").exists()
    assert project.value().counts["score"]["num_sequences"] == 40


def test_other_faults_come_as_they_are_and_leave_nothing_half_written(project, valued_once, scorer, monkeypatch):
    calls, score = [], scorer.score

    def faulty(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return score(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score", faulty)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            project.value()
    assert len(calls) == 4
    assert project.live("SELECT count(*) FROM record.signal_values") == [(0,)]
    assert project.live("SELECT state, error FROM record.runs") == [("failed", "RuntimeError: mat1 and mat2 shapes cannot be multiplied")]
    project.value()
    assert stored(project) == stored(valued_once)  # the same plan goes on: bit by bit


def test_values_that_are_not_finite_are_null_counted_and_told(project, monkeypatch, told):
    import torch

    import models.scoring

    spoiled, probe = [], models.scoring.probe

    def spoiling(model, batch, directions, **options):
        result = probe(model, batch, directions, **options)
        if directions.tensors and not spoiled:
            row, positions = 0, batch.weights_BT[0].nonzero().flatten()
            spoiled.append(batch.input_ids_BT[row, : int(batch.attention_mask_BT[row].sum())].tolist())
            result.target_BT["adapt"][row, positions[0]] = torch.inf
            result.context_BT["stab"][row, positions[1]] = torch.nan
            result.loss_BT[row, positions[2]] = -torch.inf
        return result

    monkeypatch.setattr(models.scoring, "probe", spoiling)
    done = project.value()
    assert done.counts["score"]["num_not_finite"] == 3
    ((sequence_id, example_id),) = project.sql(f"SELECT sequence_id, example_id FROM sequences WHERE token_ids = {spoiled[0]}")
    assert f"sequence {sequence_id} has 3 values that are not finite; they are stored as NULL" in told.text
    nulls = "count(*) - count(adapt_direct), count(*) - count(stab_causal), count(*) - count(loss), count(*) - count(adapt_causal)"
    assert project.sql(f"SELECT {nulls} FROM token_values WHERE example_id = '{example_id}'") == [(1, 1, 1, 0)]
    assert project.sql(f"SELECT {nulls} FROM token_values") == [(1, 1, 1, 0)]
    assert project.sql(
        "SELECT keep FROM token_values JOIN token_masks USING (sequence_id, position) WHERE policy = 'default' AND (adapt_direct IS NULL OR stab_causal IS NULL)"
    ) == [(False,), (False,)]


@pytest.mark.parametrize("overrides", [[], ["scoring.warmup.steps=0"]])
def test_progress_ends_with_all_tokens_done(project, monkeypatch, overrides):
    from tasks.progress import Progress

    seen = []
    monkeypatch.setattr(Progress, "tokens", lambda _, done, total: seen.append((done, total)))
    project.value(*overrides)
    assert seen[-1][0] == seen[-1][1] > 0
    assert {total for _, total in seen} == {seen[-1][1]}
    assert seen == sorted(seen)


def test_sequences_longer_than_the_budget_are_scored_alone(project):
    project.write_train(project.train_rows()[:6])
    done = project.value("scoring.batch_tokens=16", "scoring.part_tokens=16", "data.train.max_rejected_share=0.5")
    assert done.counts["score"]["num_sequences"] == 6
    assert project.sql("SELECT count(*) FROM examples ANTI JOIN token_values USING (example_id)") == [(0,)]


def test_receipts_count_the_sequences_they_stand_for(valued):
    scored = valued.live("SELECT sum(num_rows) FROM record.receipts WHERE stage = 'score'")[0][0]
    assert scored == 2 * 40  # one pass of the reference model, one of the scoring model
    assert json.loads(valued.live("SELECT counts FROM runs ORDER BY started_at")[0][0])["score"]["num_sequences"] == 40
    assert not Path(valued.warehouse / "work").exists()


@pytest.mark.parametrize(("group", "asked"), [("signals", ("margin", "el2n")), ("ref_signals", ()), ("adapt", ())])
def test_optional_signals_are_asked_of_the_scoring_model_when_its_signals_are_wanted(monkeypatch, tmp_path, group, asked):
    import models.directions
    import models.reference
    import models.scoring
    from tasks import scoring
    from tasks.settings import build

    raw = {"data": {"train": "t", "validation": "v"}, "model": {"reference": "m"}, "scoring": {"signals": ["margin", "el2n"]}}
    run = SimpleNamespace(config=build(raw, tmp_path, ""))
    setup = SimpleNamespace(scoring=tmp_path, reference=tmp_path, adapt=tmp_path, stab=tmp_path, described={"adapt": {"digest": "d"}})
    calls = []
    monkeypatch.setattr(models.scoring, "Scorer", lambda model, directions, signals=(), **_: calls.append((set(directions), signals)))
    monkeypatch.setattr(models.reference, "load_model", lambda *_: None)
    monkeypatch.setattr(models.directions, "load_tensors", lambda _: {})
    monkeypatch.setattr(models.directions, "content_digest", lambda _: "d")
    scoring._load(run, setup, "reference" if group == "ref_signals" else "scoring", {group: "identity"})
    assert calls == [({"adapt"} if group == "adapt" else set(), asked)]


def test_optional_signals_are_stored_beside_the_others_and_null_where_not_asked_for(tmp_path):
    from tasks import score_parts
    from warehouse.connect import Warehouse
    from warehouse.write import PART_SCHEMAS, commit_shard

    def values(**signals):
        lists = {name: np.array(list_, np.float32) for name, list_ in signals.items()}
        floats = np.array([np.nan, 1.0], np.float32)
        return SimpleNamespace(loss=floats, entropy=floats, direct={}, causal={}, prompt_context={}, signals=lists)

    rows = [score_parts._row(full("a"), values(margin=[np.nan, -0.5], grad_norm=[np.nan, 2.0])), score_parts._row(full("b"), values())]
    with Warehouse(tmp_path / "wh") as warehouse:
        commit_shard(warehouse, {"signals": "G"}, pa.Table.from_pylist(rows, schema=PART_SCHEMAS["scoring"]), "run")
        commit_shard(warehouse, {"ref_signals": "R"}, pa.Table.from_pylist(rows[1:], schema=PART_SCHEMAS["reference"]), "run")
        stored = warehouse.con.execute(
            "SELECT signals_id, record.hex_id(sequence_id), loss, margin, el2n, grad_norm FROM record.signal_values ORDER BY ALL"
        )
        assert short(stored.fetchall()) == [
            ("G", "a", [None, 1.0], [None, -0.5], None, [None, 2.0]),
            ("G", "b", [None, 1.0], None, None, None),
            ("R", "b", [None, 1.0], None, None, None),
        ]
