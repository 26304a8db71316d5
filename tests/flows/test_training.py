"""Laws of flows/train_masked.py and tasks/training.py: what is trained on, what is measured, what is skipped, what a kill costs."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.flows.world import Project
from warehouse.connect import Warehouse, writer_lock


def weights(checkpoint):
    from safetensors.torch import load_file

    return load_file(Path(checkpoint) / "model.safetensors")


def target_loss_by_hand(model_folder, project):
    """Mean loss per response token of the evaluation set, one sequence at a time, with the loss of transformers."""
    import json

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    total, num_tokens = 0.0, 0
    for line in (project.folder / "evaluation.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, response = (tokenizer(row[k], add_special_tokens=False)["input_ids"] for k in ("prompt", "response"))
        ids = torch.tensor([[tokenizer.bos_token_id, *prompt, *response, tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[0, : 1 + len(prompt)] = -100
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * (len(response) + 1)
        num_tokens += len(response) + 1
    return total / num_tokens


@pytest.mark.parametrize("policy", ["full", "random", "default"])
def test_training_measures_before_and_after_and_sees_the_tokens_that_sql_counts(valued, policy):
    rows = valued.train_rows()
    valued.write_train([*rows, rows[0], rows[0]])
    valued.value()
    receipt = valued.train(policy=policy)
    metrics = {
        (step, name): value
        for step, name, value in valued.sql(f"SELECT step, metric, value FROM training_metrics WHERE policy = '{policy}'")
    }
    assert (
        metrics[0, "target_loss"]
        == receipt.metrics["target_loss_before"]
        == pytest.approx(target_loss_by_hand(valued.model, valued), rel=1e-5)
    )
    assert (
        metrics[6, "target_loss"]
        == receipt.metrics["target_loss"]
        == pytest.approx(target_loss_by_hand(receipt.checkpoint, valued), rel=1e-5)
    )
    assert metrics[6, "target_loss"] < metrics[0, "target_loss"] - 0.5
    assert {(0, "retention_loss"), (6, "retention_loss"), (1, "train_loss")} <= set(metrics)
    ((counted,),) = valued.sql(
        f"SELECT sum(multiplicity) FROM token_masks JOIN examples USING (example_id) WHERE policy = '{policy}' AND keep AND position > 0"
    )
    assert metrics[6, "supervised_tokens_per_epoch"] == counted


def test_checkpoint_loads_as_any_other_model_does(valued):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = valued.train().checkpoint
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained(valued.model).num_parameters()
    assert AutoTokenizer.from_pretrained(checkpoint).eos_token == "</s>"


def test_unchanged_training_is_skipped_without_loading_a_model(valued, monkeypatch):
    import models.reference

    first = valued.train()
    before = valued.bytes_of_warehouse()
    with monkeypatch.context() as patch:
        patch.setattr(models.reference, "load_model", None)
        patch.setattr(models.reference, "load_tokenizer", None)
        again = valued.train()
        elsewhere = valued.train("training.save_steps=100")
    assert (first.trained, again.trained, elsewhere.trained) == (True, False, False)
    assert (again.checkpoint, again.metrics) == (first.checkpoint, first.metrics)
    assert valued.bytes_of_warehouse() == before
    assert valued.train("training.learning_rate=1.0e-3").trained


def test_training_is_known_by_its_mask_not_by_the_name_of_the_policy(valued):
    first = valued.train("training.policy=random")
    assert not valued.train(policy="random").trained
    assert valued.train(policy="random").training_id == first.training_id


def test_training_whose_checkpoint_is_gone_is_trained_again(valued):
    import shutil

    first = valued.train()
    shutil.rmtree(Path(first.checkpoint).parent)
    again = valued.train()
    assert again.trained
    assert again.training_id == first.training_id
    assert valued.sql("SELECT count(*) FROM trainings") == [(1,)]


def test_training_from_the_scoring_model_starts_at_its_weights(valued):
    ((warmup,),) = valued.live("SELECT path FROM record.artifacts WHERE kind = 'warmup'")
    receipt = valued.train("training.start=scoring")
    assert receipt.metrics["target_loss_before"] == pytest.approx(target_loss_by_hand(valued.warehouse / warmup, valued), rel=1e-5)
    assert receipt.training_id != valued.train().training_id


def test_adapters_are_merged_into_a_plain_checkpoint(valued):
    pytest.importorskip("peft")
    receipt = valued.train("training.lora={rank: 4}", "training.learning_rate=1.0e-2")
    trained, reference = weights(receipt.checkpoint), weights(valued.model)
    assert set(trained) == set(reference)
    assert trained["model.embed_tokens.weight"].equal(reference["model.embed_tokens.weight"])
    assert not trained["model.layers.0.mlp.up_proj.weight"].equal(reference["model.layers.0.mlp.up_proj.weight"])
    assert receipt.metrics["target_loss"] < receipt.metrics["target_loss_before"]


def test_training_without_a_mask_says_which_masks_there_are(valued):
    with pytest.raises(ValueError, match=r"no mask of policy 'harsh', only \['default', 'full', 'random'\]; run `alphatoken mask"):
        valued.train("policy.harsh={keep: 0.2}", policy="harsh")


@pytest.mark.parametrize(
    ("point", "number"), [("training step", 1), ("training step", 5), ("checkpoint half saved", 2), ("trained, not noted", 1)]
)
def test_killed_training_goes_on_to_the_weights_of_an_uninterrupted_one(valued_once, driver, uninterrupted, tmp_path, point, number):
    project = Project.copy_of(valued_once.folder, tmp_path / "project")
    driver.run_killed("train", folder=str(project.folder), point=point, number=number)
    assert project.live("SELECT count(*) FROM trainings") == [(0,)]
    checkpoint = driver.run("train", folder=str(project.folder))
    assert (Path(checkpoint) / "model.safetensors").read_bytes() == uninterrupted[0]
    assert project.sql("SELECT step, metric, value FROM training_metrics WHERE metric <> 'train_seconds' ORDER BY ALL") == uninterrupted[1]


@pytest.fixture(scope="module")
def uninterrupted(valued_once, driver, tmp_path_factory):
    """Weights and metrics of a training that nobody kills."""
    project = Project.copy_of(valued_once.folder, tmp_path_factory.mktemp("trained") / "project")
    checkpoint = driver.run("train", folder=str(project.folder))
    metrics = project.sql("SELECT step, metric, value FROM training_metrics WHERE metric <> 'train_seconds' ORDER BY ALL")
    return (Path(checkpoint) / "model.safetensors").read_bytes(), metrics


def test_training_waits_for_a_writer_with_its_result_only(valued, driver):
    done = []
    thread = threading.Thread(target=lambda: done.append(driver.run("train", folder=str(valued.folder))))
    with writer_lock(valued.warehouse, 5, "a test"), Warehouse(valued.warehouse):
        thread.start()
        deadline = time.monotonic() + 60
        while not list(valued.folder.glob("runs/*/model/config.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert list(valued.folder.glob("runs/*/model/config.json"))
        assert not done
    thread.join(60)
    assert done
    assert valued.sql("SELECT count(*) FROM trainings") == [(1,)]


def test_training_refuses_a_release_that_does_not_fit_its_configuration(valued, tmp_path):
    """Otherwise it would train or measure something else than its identity says."""
    other = tmp_path / "other-model"
    shutil.copytree(valued.model, other)
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"other-model is not the model .*run `alphatoken value` first"):
        valued.train(f"model.reference={other}")
    with pytest.raises(ValueError, match=r"made with other settings, values or data .*run `alphatoken mask CONFIG --policy default`"):
        valued.train("policy.default.keep=0.2")
    rows = (valued.folder / "evaluation.jsonl").read_text().splitlines()
    (valued.folder / "evaluation.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"has another evaluation set.*run `alphatoken value` first"):
        valued.train()
    assert valued.sql("SELECT count(*) FROM trainings") == [(0,)]


def test_training_refuses_weights_that_were_changed_since_the_release(valued, tmp_path):
    config = valued.settings()
    model = tmp_path / "model"
    shutil.copytree(valued.model, model)
    config["model"]["reference"] = str(model)
    valued.config.write_text(yaml.safe_dump(config))
    valued.value()
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    save_file({name: t * 1.01 for name, t in tensors.items()}, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not the model that the release was made with"):
        valued.train()


def test_batches_of_a_partial_last_step_are_trained_on(valued):
    """5 batches with accumulation 2 make 3 steps: none is left out."""
    config = valued.settings()
    del config["training"]["max_steps"]
    config["training"] |= {"gradient_accumulation": 2, "epochs": 1}
    valued.config.write_text(yaml.safe_dump(config))
    assert valued.train().trained
    assert valued.sql("SELECT max(step) FROM training_metrics") == [(3,)]
