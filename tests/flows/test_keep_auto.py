"""Laws of `keep: auto` in the flows: how the validation set is valued, that nothing is done twice, and what a change costs."""

import json

import numpy as np
import pytest
import torch

from models.batches import collate
from models.directions import validation_gradient
from models.reference import load_model
from models.scoring import Scorer
from tasks.identities import FOLDS, folds
from tests.flows.test_value_propagation import PROPAGATION
from tests.flows.world import Project, purchases, stored, write_rows

AUTO = "policy.auto.keep=auto"
"""Of the four components, so that values along D_A count."""


@pytest.fixture(scope="module")
def valued_auto(template, tmp_path_factory):
    """A project whose masks compare with its validation set of 14 rows."""
    project = Project.copy_of(template, tmp_path_factory.mktemp("auto") / "project")
    write_rows(project.folder / "validation.jsonl", purchases(77, 14))
    project.value(AUTO)
    return project


def held_out_of(project):
    """Rows of the validation set's scoring: sequence to (direct, causal)."""
    rows = project.live(
        """
        SELECT record.hex_id(v.sequence_id), v.direct, v.causal
        FROM record.direction_values AS v JOIN record.scorings AS s ON s.adapt_values_id = v.values_id
        WHERE s.scoring_id = (SELECT value FROM record.pointers WHERE name = 'held_out')
        """
    )
    return {name: (direct, causal) for name, direct, causal in rows}


def test_each_fold_is_valued_against_the_gradient_of_the_others(valued_auto):
    found = held_out_of(valued_auto)
    rows = valued_auto.live("SELECT record.hex_id(sequence_id), token_ids, response_positions FROM record.sequences")
    sequences = {name: (ids, positions) for name, ids, positions in rows if name in found}
    assert len(sequences) == len(found) > 2 * FOLDS
    warmup = next(iter((valued_auto.warehouse / "artifacts").glob("warmup-*")))
    model = load_model(warmup, torch.device("cpu"), torch.float32)
    scope = [name for name, _ in model.named_parameters()]
    for members in folds(found):
        others = [sequences[name] for name in sorted(sequences) if name not in members]
        direction, _ = validation_gradient(model, [collate([one[0] for one in others], [one[1] for one in others])], scope)
        mine = [sequences[name] for name in sorted(members)]
        values = Scorer(model, {"adapt": direction}).score([one[0] for one in mine], [one[1] for one in mine])
        for name, value in zip(sorted(members), values, strict=True):
            for stored_values, computed in zip(found[name], (value.direct["adapt"], value.causal["adapt"]), strict=True):
                as_floats = np.array([np.nan if v is None else v for v in stored_values])
                np.testing.assert_allclose(as_floats, computed, rtol=2e-3, atol=1e-6)


def test_the_scoring_of_the_validation_set_tells_whose_it_is(valued_auto):
    current, held_out, settings = valued_auto.sql(
        """
        SELECT (SELECT scoring_id FROM scorings WHERE is_current), scoring_id, settings FROM scorings
        WHERE settings ->> '$.held_out_of' IS NOT NULL
        """
    )[0]
    assert json.loads(settings)["held_out_of"] == current
    assert len(json.loads(settings)["folds"]) == FOLDS
    told = json.loads(valued_auto.sql("SELECT settings FROM masks WHERE policy = 'auto'")[0][0])
    assert told["auto"]["held_out_scoring"] == held_out


def test_an_unchanged_run_writes_nothing_and_status_says_so(valued_auto, tmp_path):
    from tasks.settings import load
    from tasks.status import plan
    from warehouse.read import Reader

    project = Project.moved(valued_auto, tmp_path / "project")
    before = project.bytes_of_warehouse()
    assert not project.value(AUTO).wrote_release
    assert project.bytes_of_warehouse() == before
    config = load(project.config, [AUTO])
    with Reader(project.warehouse) as reader:
        lines = dict(plan(config, reader))
    assert lines["mask auto"] == "unchanged"
    assert lines["directions"] == "nothing to make"
    assert lines["score, validation set"] == "nothing: 0 tokens"


def test_a_new_validation_row_is_foretold_and_valued(valued_auto, tmp_path):
    from tasks.settings import load
    from tasks.status import plan
    from warehouse.read import Reader

    project = Project.moved(valued_auto, tmp_path / "project")
    rows = [json.loads(line) for line in (project.folder / "validation.jsonl").read_text().splitlines()]
    write_rows(project.folder / "validation.jsonl", [*rows, *purchases(78, 1)])
    with Reader(project.warehouse) as reader:
        lines = dict(plan(load(project.config, [AUTO]), reader))
    assert lines["mask auto"] == "to be written"
    assert lines["score, validation set"].startswith("sequences lacking values: adaptation 15")
    project.value(AUTO)
    assert len(held_out_of(project)) == len(held_out_of(valued_auto)) + 1


@pytest.mark.slow
def test_a_policy_that_keeps_auto_later_costs_the_validation_set_alone(template, valued_auto, tmp_path):
    project = Project.copy_of(template, tmp_path / "project")
    write_rows(project.folder / "validation.jsonl", purchases(77, 14))
    project.value()
    counts = project.value(AUTO).counts
    assert counts["score"]["num_sequences"] >= len(held_out_of(project))
    assert stored(project)["mask_values"] == stored(valued_auto)["mask_values"]


def test_a_training_takes_the_mask(valued_auto, tmp_path):
    project = Project.moved(valued_auto, tmp_path / "project")
    assert project.train(AUTO, policy="auto").trained
    write_rows(project.folder / "validation.jsonl", purchases(79, 14))
    project.value("policy.auto.keep=0.7")
    with pytest.raises(ValueError, match="made with other settings, values or data"):
        project.train(AUTO, policy="auto")


def test_pruning_keeps_the_validation_sets_scoring_with_its_own(valued_auto, tmp_path):
    project = Project.moved(valued_auto, tmp_path / "project")
    project.prune(AUTO, keep_last=1, apply=True)
    assert held_out_of(project) == held_out_of(valued_auto)
    assert not project.value(AUTO).counts["score"]["num_sequences"]


def test_of_a_validation_set_of_pairs_the_chosen_responses_are_compared_with(template, tmp_path):
    from tasks.settings import load
    from tasks.status import plan
    from warehouse.read import Reader

    project, default = Project.copy_of(template, tmp_path / "project"), 'policy.default={expression: "-ref_loss", keep: auto}'
    rows = [row | {"chosen": row["response"], "rejected": " ".join(reversed(row["response"].split()))} for row in purchases(77, 14)]
    write_rows(project.folder / "validation.jsonl", [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
    project.value(default)
    told = json.loads(project.sql("SELECT settings FROM masks WHERE policy = 'default'")[0][0])
    chosen = project.live(
        """
        SELECT sum(len(response_positions) - len(list_intersect(end_of_turn_positions, response_positions)))
        FROM (SELECT DISTINCT sequence_id FROM record.example_sequences WHERE branch = 'chosen') JOIN record.sequences USING (sequence_id)
        """
    )
    assert [(told["auto"]["num_clean"],)] == chosen
    with Reader(project.warehouse) as reader:
        lines = dict(plan(load(project.config, [default]), reader))
    assert (lines["mask default"], lines["score, validation set"]) == ("unchanged", "nothing: 0 tokens")


def test_folds_are_made_over_what_the_estimator_values(template, tmp_path):
    """Under `value_propagation` directions cover the last blocks alone; its scorer refuses any other."""
    from models.directions import load_tensors
    from tasks.settings import load
    from tasks.status import plan
    from warehouse.read import Reader

    project, settings = Project.copy_of(template, tmp_path / "project"), (*PROPAGATION, AUTO)
    write_rows(project.folder / "validation.jsonl", purchases(77, 14))
    project.value(*settings)
    assert len(held_out_of(project)) > 2 * FOLDS
    made = {kind: project.warehouse / path for kind, path in project.live("SELECT kind, path FROM record.artifacts")}
    assert set(load_tensors(made["held_out"])) == set(load_tensors(made["adapt"]))
    with Reader(project.warehouse) as reader:
        lines = dict(plan(load(project.config, settings), reader))
    assert (lines["directions"], lines["score, validation set"]) == ("nothing to make", "nothing: 0 tokens")
    assert lines["mask auto"] == "unchanged"


def test_a_small_validation_set_is_told(template, tmp_path):
    project = Project.copy_of(template, tmp_path / "project")
    with pytest.raises(ValueError, match=f"6 different usable sequences, and {2 * FOLDS} are needed"):
        project.value(AUTO)
