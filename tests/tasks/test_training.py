"""Laws of tasks/training.py: what identifies a training, the halves of the retention text, which checkpoint is whole."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tasks import training
from tasks.runs import Run
from tasks.settings import load
from tasks.training import last_checkpoint
from tasks.training_plan import plan_training, retention_half
from warehouse.queries import Queries
from warehouse.release import opened


def identity(project, *overrides, policy="default"):
    run = Run.begin("train_masked", load(project.config, overrides))
    with opened(project.warehouse) as (con, _):
        return plan_training(run, Queries(con), policy).training_id


def test_settings_that_do_not_change_the_model_do_not_count(valued_once):
    for override in (
        "training.output=elsewhere", "training.save_steps=1", "training.policy=full", "model.device=auto", "scoring.batch_tokens=128",
        "policy.harsh={keep: 0.2}", "warehouse.keep_releases=5",
    ):  # fmt: skip
        assert identity(valued_once, override) == identity(valued_once), override


def test_settings_that_change_the_model_or_its_measures_count(valued_once, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text("\n\n".join(f"Lily saw {name} ." for name in ("Tom", "Ben", "Mia", "Sam", "Zoe", "Max", "Ada")))
    identities = {identity(valued_once)}
    overrides = (
        "training.learning_rate=1.0e-3", "training.max_steps=7", "training.batch_size=4", "training.bucket_window=8", "training.gradient_accumulation=2", "training.seed=1",
        "training.start=scoring", "training.lora={rank: 2}", "training.schedule=linear", "training.weight_decay=0.1",
        "training.warmup_steps=2", "training.evaluation_limit=3", f"data.retention={text}",
    )  # fmt: skip
    for override in overrides:
        identities.add(identity(valued_once, override))
    assert len(identities) == len(overrides) + 1


def test_masks_tell_trainings_apart(valued_once):
    assert len({identity(valued_once, policy=policy) for policy in ("default", "random", "full")}) == 3


def test_evaluation_that_the_release_lacks_is_asked_for(project):
    raw = project.settings()
    del raw["data"]["evaluation"]
    complete = project.config.read_text()
    project.config.write_text(yaml.safe_dump(raw))
    project.value()
    project.config.write_text(complete)
    with pytest.raises(ValueError, match=r"no evaluation set, but data\.evaluation is configured; run `alphatoken value` first"):
        identity(project)


def test_halves_of_the_retention_text_part_it_by_content():
    texts = [f"text number {i}" for i in range(101)]
    one, other = retention_half(texts, 0), retention_half(texts, 1)
    assert sorted(one + other) == sorted(texts)
    assert 25 < len(one) < 75
    assert (retention_half(texts[::-1], 0), retention_half(texts[::-1], 1)) == (one, other)
    assert set(retention_half(texts[:50], 0)) == set(one) & set(texts[:50])
    assert retention_half([], 1) == []


def test_last_checkpoint_is_the_last_whole_one(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, whole in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            (folder / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_seconds_of_a_resumed_training_are_those_of_all_its_stretches(valued, monkeypatch):
    from tasks.progress import Progress

    clock = iter(range(0, 1000, 10))  # ten seconds from one look at it to the next
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def stopping(self, what, done, total):
        if done == 5:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "steps", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            valued.train("training.save_steps=2")
    receipt = valued.train("training.save_steps=2")
    assert receipt.metrics["train_seconds"] == 40 + 2 * 10 + 10  # four steps of the checkpoint, two more, the end
    assert ("train_seconds", 70.0) in valued.sql("SELECT metric, value FROM training_metrics")


@pytest.mark.parametrize("fails", [False, True])
def test_processes_part_before_the_first_one_waits_for_the_writers_lock(valued, monkeypatch, fails):
    done, note = [], training.note_training

    def noting(*arguments):
        done.append("noted")
        if fails:
            raise TimeoutError("another run writes")
        note(*arguments)

    monkeypatch.setattr(training, "leave", lambda: done.append("left"))
    monkeypatch.setattr(training, "note_training", noting)
    if fails:
        with pytest.raises(TimeoutError, match="another run writes"):
            valued.train("training.max_steps=1")
    else:
        valued.train("training.max_steps=1")
    assert done == ["left", "noted"]


def test_what_is_to_be_trained_is_compared_before_a_model_is_loaded(valued, monkeypatch):
    told = []

    def differ(plans, _):
        told.append(plans)
        raise ValueError("the processes do not agree")

    with monkeypatch.context() as patch:
        patch.setattr(training, "load_start", lambda *_: pytest.fail("a model was loaded"))
        patch.setattr(training, "require_same", differ)
        with pytest.raises(ValueError, match="do not agree"):
            valued.train("training.max_steps=1")
    receipt = valued.train("training.max_steps=1")
    monkeypatch.setattr(training, "require_same", lambda plans, _: told.append(plans))
    assert not valued.train("training.max_steps=1").trained
    known = receipt.training_id[:12]
    assert [text.split(" it, ")[0] for text in told] == [f"has training {known} before", f"has training {known} behind"]


def test_checkpoint_of_a_project_is_stored_relative_to_it(valued):
    receipt = valued.train()
    ((place,),) = valued.sql("SELECT checkpoint FROM trainings")
    assert not Path(place).is_absolute()
    assert str(valued.folder / place) == receipt.checkpoint
