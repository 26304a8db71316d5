"""Laws of flows/rounds.py: one round is value and train, rounds go on in model and stream, a killed run goes on, SQL tells the descent."""

from pathlib import Path

import pytest

from flows import rounds as module
from tasks.settings import load
from tasks.training import tell_if_rounds_are_alike
from tests.flows.test_training import weights
from tests.flows.world import Project
from warehouse.read import Reader

EVERY = ("training.policy=full", "training.epochs=2", "training.max_steps=null", "training.save_steps=2")
"""40 rows in batches of 8, twice: 10 steps."""


def rounds(project, *overrides, number=2, policy=None):
    return module.rounds(str(project.config), [*overrides], number, policy)


def test_one_round_is_value_and_train(valued):
    (only,) = rounds(valued, number=1)
    assert only.training.trained
    again = valued.train()
    assert (again.trained, again.training_id, only.steps) == (False, only.training.training_id, 6)


def test_a_round_values_at_the_model_of_the_one_before_and_trains_it_on_with_the_batches_behind(valued):
    done = rounds(valued, *EVERY)
    assert [one.steps for one in done] == [5, 5]
    with Reader(valued.warehouse) as reader:
        rows = reader.named("rounds").to_dicts()
    assert [(row["round"], row["training_id"], row["steps"]) for row in rows] == [
        (i + 1, one.training.training_id, one.steps) for i, one in enumerate(done)
    ]
    assert [row["began_with"] for row in rows] == [None, *(one.training.training_id for one in done[:1])]
    assert (
        len({row["scoring_id"] for row in rows})
        == len({row["mask_id"] for row in rows})
        == len({row["training_run_id"] for row in rows})
        == 2
    )
    assert [row["target_loss"] for row in rows] == [one.training.metrics["target_loss"] for one in done]
    assert done[1].training.metrics["target_loss_before"] == pytest.approx(done[0].training.metrics["target_loss"], rel=1e-6)
    skipped = valued.sql("SELECT (settings ->> '$.settings.skip_batches')::INT FROM trainings ORDER BY created_at")
    assert skipped == [(None,), (5,)]

    again = rounds(valued, *EVERY)
    assert [one.training.training_id for one in again] == [one.training.training_id for one in done]
    assert not any(one.training.trained for one in again)


@pytest.mark.parametrize(("point", "number"), [("training step", 7), pytest.param("batch", 2, marks=pytest.mark.slow)])
def test_killed_rounds_go_on_to_the_model_of_uninterrupted_ones(valued_once, driver, tmp_path, whole, point, number):
    project = Project.moved(valued_once, tmp_path / "project")
    driver.run_killed("rounds", folder=str(project.folder), overrides=EVERY, point=point, number=number)
    checkpoints = driver.run("rounds", folder=str(project.folder), overrides=EVERY)
    assert [Path(path).parent.name for path in checkpoints] == [Path(path).parent.name for path in whole]
    mine, other = weights(checkpoints[1]), weights(whole[1])
    assert all(bool((mine[name] == other[name]).all()) for name in other)


@pytest.fixture(scope="module")
def whole(valued_once, driver, tmp_path_factory):
    """Checkpoints of rounds that nobody kills."""
    project = Project.moved(valued_once, tmp_path_factory.mktemp("whole") / "project")
    return driver.run("rounds", folder=str(project.folder), overrides=EVERY)


def test_a_mask_that_is_the_same_in_every_round_is_told(valued, told):
    by_reference = 'policy.default={expression: "-ref_loss", keep: auto}'
    for overrides, policy, is_told in (((), None, False), ((by_reference,), None, True), ((), "full", True), ((), "random", True)):
        told.clear()
        tell_if_rounds_are_alike(load(valued.config, overrides), policy)
        assert ("reads no value of the scoring model" in told.text) == is_told, (overrides, policy)


def test_too_many_rounds_are_refused(valued):
    with pytest.raises(ValueError, match="6 steps, too few for 7 rounds"):
        rounds(valued, number=7)
    with pytest.raises(ValueError, match="got 0 rounds"):
        rounds(valued, number=0)
    assert valued.sql("SELECT * FROM trainings") == []
