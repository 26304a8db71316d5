"""Laws of flows/study.py: every arm once, figures are those of trainings, what is measured is not done again, no model stays."""

import pytest

from flows import study as module

SHORT = ("training.max_steps=3", "study.seeds=[0]", "study.policies=[random]", "study.learning_rates=[0.001, 0.0005]")


def study(project, *overrides):
    return module.study(str(project.config), [*SHORT, *overrides])


def test_a_study_trains_every_arm_once_and_its_figures_are_those_of_the_trainings(valued):
    done = study(valued)
    assert {(a.policy, a.learning_rate, a.seed) for a in done.arms} == {
        (policy, rate, 0) for policy in ("full", "random") for rate in (1e-3, 5e-4)
    }
    assert [a.kept_share for a in done.arms if a.policy == "full"] == [1.0] * 2
    stored = valued.sql(
        "SELECT t.policy, t.settings ->> '$.settings.learning_rate', t.settings ->> '$.settings.seed', m.metric, m.value FROM training_metrics AS m "
        "JOIN trainings AS t USING (training_id) WHERE m.step = 3 AND m.metric IN ('target_loss', 'retention_loss')"
    )
    by_arm = {(policy, float(rate), int(seed), metric): value for policy, rate, seed, metric, value in stored}
    assert len(by_arm) == 8
    for arm in done.arms:
        key = (arm.policy, arm.learning_rate, arm.seed)
        assert arm.point == (by_arm[*key, "target_loss"], by_arm[*key, "retention_loss"])
    assert not [path for path in valued.folder.rglob("model.safetensors") if "artifacts" not in path.parts]
    assert (done.scoring_seconds, done.controls) == (0, ("random",))

    again = study(valued, "study.seeds=[0, 1]")  # goes on
    assert again.arms[:4] == done.arms
    assert len(again.arms) == 8
    assert len(valued.sql("SELECT * FROM trainings")) == 8


def test_a_model_that_was_not_kept_is_trained_when_it_is_asked_for(valued):
    study(valued, "study.seeds=[0]", "study.learning_rates=[0.001]")
    receipt = valued.train("training.max_steps=3", "training.learning_rate=0.001", policy="random")
    assert receipt.trained
    assert (valued.folder / receipt.checkpoint / "model.safetensors").is_file()


def test_what_a_study_needs_is_said(valued):
    with pytest.raises(ValueError, match=r"set data\.evaluation and data\.retention"):
        study(valued, "data.retention=null")
    with pytest.raises(ValueError, match="no policy 'ful'"):
        study(valued, "study.policies=[ful]")
    with pytest.raises(ValueError, match="expected different numbers"):
        study(valued, "study.seeds=[1, 1]")
