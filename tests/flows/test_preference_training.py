"""Laws of training on pairs, by flows/train_masked.py, and of training with soft weights: what is learnt from, measured, refused, resumed."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.flows import world
from tests.flows.world import Project
from warehouse.stream import open_stream

BETA = 0.2


def as_pairs(rows):
    """Each row's response against that of the row before."""
    return [
        {"prompt": row["prompt"], "chosen": row["response"], "rejected": other["response"] + " ."}
        for row, other in zip(rows, rows[-1:] + rows[:-1], strict=True)
    ]


@pytest.fixture(scope="module")
def pairs_once(template, tmp_path_factory):
    """A project of pairs, valued once; to be copied, not used."""
    made = Project.copy_of(template, tmp_path_factory.mktemp("pairs") / "project")
    for name in ("train", "evaluation"):
        lines = (made.folder / f"{name}.jsonl").read_text().splitlines()
        world.write_rows(made.folder / f"{name}.jsonl", as_pairs([json.loads(line) for line in lines if line not in world.BAD_ROWS]))
    settings = made.settings() | {"preference": {"beta": BETA}}
    settings["training"] |= {"learning_rate": 1e-3, "gradient_accumulation": 2}
    made.config.write_text(yaml.safe_dump(settings))
    with world.without_prefect():
        made.value()
    return made


@pytest.fixture
def pairs(pairs_once, tmp_path):
    with world.without_prefect():
        yield Project.moved(pairs_once, tmp_path / "pairs")


def log_prob(model, tokenizer, prompt, response):
    """Log-probability of a response with its end-of-turn token, one sequence at a time, with the loss of transformers."""
    prompt, response = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response))
    ids = torch.tensor([[tokenizer.bos_token_id, *prompt, *response, tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[0, : 1 + len(prompt)] = -100
    with torch.no_grad():
        return -model(input_ids=ids, labels=labels).loss.item() * (len(response) + 1)


def measured_by_hand(folder, project):
    """(accuracy, DPO loss, mean margin) of the evaluation pairs, by the definition."""
    models = [AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval() for place in (folder, project.model)]
    tokenizer = AutoTokenizer.from_pretrained(project.model)
    margins = []
    for line in (project.folder / "evaluation.jsonl").read_text().splitlines():
        row = json.loads(line)
        (chosen, ref_chosen), (rejected, ref_rejected) = (
            [log_prob(model, tokenizer, row["prompt"], row[branch]) for model in models] for branch in ("chosen", "rejected")
        )
        margins.append(BETA * ((chosen - ref_chosen) - (rejected - ref_rejected)))
    n = len(margins)
    return sum(s > 0 for s in margins) / n, sum(math.log1p(math.exp(-s)) for s in margins) / n, sum(margins) / n


def metrics_of(project, policy):
    rows = project.sql(f"SELECT step, metric, value FROM training_metrics WHERE policy = '{policy}'")
    return {(step, name): value for step, name, value in rows}


def test_training_on_pairs_raises_margins_and_measures_them_before_and_after(pairs):
    receipt = pairs.train(policy="full")
    metrics = metrics_of(pairs, "full")
    assert {name: metrics[0, name] for name in ("margin_accuracy", "dpo_loss", "margin")} == pytest.approx(
        {"margin_accuracy": 0, "dpo_loss": math.log(2), "margin": 0}, abs=1e-9
    )
    found = tuple(metrics[6, name] for name in ("margin_accuracy", "dpo_loss", "margin"))
    assert found == pytest.approx(measured_by_hand(receipt.checkpoint, pairs), rel=1e-3, abs=1e-5)
    assert found[2] > 0.01
    assert metrics[6, "train_margin"] > metrics[1, "train_margin"] + 0.01
    for name in ("loss", "margin", "accuracy", "dpo_loss", "chosen_log_prob", "rejected_log_prob"):
        assert sorted(step for step, metric in metrics if metric == f"train_{name}") == list(range(1, 7))
    assert metrics[3, "train_chosen_kept_share"] == metrics[3, "train_rejected_kept_share"] == 1
    assert {(0, "retention_loss"), (6, "retention_loss")} <= set(metrics)
    assert receipt.metrics["dpo_loss_before"] == pytest.approx(math.log(2))
    again = pairs.train(policy="full")
    assert (again.trained, again.metrics) == (False, receipt.metrics)
    ((counted,),) = pairs.sql(
        "SELECT sum(multiplicity) FROM token_masks JOIN examples USING (example_id) WHERE policy = 'full' AND position > 0"
    )
    assert metrics[6, "supervised_tokens_per_epoch"] == counted


def test_stored_reference_log_probabilities_are_those_of_a_fresh_forward_pass(pairs_once):
    from models.preference import reference_log_probs

    model = AutoModelForCausalLM.from_pretrained(pairs_once.model, dtype=torch.float32).eval()
    num_tokens = 0
    for batch, _ in open_stream(pairs_once.warehouse, "default", seed=0, batch_size=5).batches(epochs=1):
        tensors = [torch.as_tensor(array) for array in (batch.input_ids, batch.attention_mask, batch.response_labels)]
        assert torch.allclose(reference_log_probs(model, *tensors), torch.as_tensor(batch.ref_log_probs), rtol=1e-5, atol=1e-5)
        num_tokens += int((batch.response_labels != -100).sum())
    assert (
        num_tokens == pairs_once.sql("SELECT sum(multiplicity) FROM token_values JOIN examples USING (example_id) WHERE position > 0")[0][0]
    )


def test_a_mask_keeps_its_share_and_plain_dpo_asks_for_all_of_it(pairs):
    pairs.train()
    metrics = metrics_of(pairs, "default")
    for branch in ("chosen", "rejected"):
        assert 0.5 < metrics[1, f"train_{branch}_kept_share"] < 0.95
    with pytest.raises(ValueError, match=r"the mask of policy 'default' leaves some out .*--policy full"):
        pairs.train("preference.loss=dpo")
    dpo = pairs.train("preference.loss=dpo", policy="full").metrics
    weighted = pairs.train(policy="full").metrics
    for name in ("dpo_loss", "margin", "retention_loss"):  # one gradient, so nearly one run
        assert dpo[name] == pytest.approx(weighted[name], rel=1e-3)


def test_adapters_and_the_scoring_model_as_start(pairs):
    receipt = pairs.train("training.start=scoring", "training.lora={rank: 2}", "training.learning_rate=1.0e-2", policy="full")
    found = tuple(receipt.metrics[name] for name in ("margin_accuracy", "dpo_loss", "margin"))
    assert found == pytest.approx(measured_by_hand(receipt.checkpoint, pairs), rel=1e-3, abs=1e-5)
    ((warmup,),) = pairs.live("SELECT path FROM record.artifacts WHERE kind = 'warmup'")
    before = tuple(receipt.metrics[f"{name}_before"] for name in ("margin_accuracy", "dpo_loss", "margin"))
    assert before == pytest.approx(measured_by_hand(pairs.warehouse / warmup, pairs), rel=1e-3, abs=1e-5)
    assert before[2] != 0


def test_preference_settings_identify_a_training_on_pairs_only(pairs_once, valued_once):
    from tests.tasks.test_training import identity

    overrides = (
        "preference.beta=0.5",
        "preference.loss=masked_margin",
        "preference.label_smoothing=0.1",
        "preference.length_normalization=true",
    )
    for project, number in ((pairs_once, 5), (valued_once, 1)):  # the mask `full` is the same for every β
        assert len({identity(project, policy="full"), *(identity(project, override, policy="full") for override in overrides)}) == number


@pytest.mark.parametrize(("point", "number"), [("training step", 5), ("checkpoint half saved", 2)])
def test_killed_training_on_pairs_goes_on_to_the_weights_of_an_uninterrupted_one(pairs_once, driver, undisturbed, tmp_path, point, number):
    project = Project.copy_of(pairs_once.folder, tmp_path / "project")
    driver.run_killed("train", folder=str(project.folder), point=point, number=number)
    checkpoint = driver.run("train", folder=str(project.folder))
    assert (Path(checkpoint) / "model.safetensors").read_bytes() == undisturbed[0]
    assert all_metrics(project) == undisturbed[1]


@pytest.fixture(scope="module")
def undisturbed(pairs_once, driver, tmp_path_factory):
    """Weights and metrics of a training on pairs that nobody kills."""
    project = Project.copy_of(pairs_once.folder, tmp_path_factory.mktemp("trained") / "project")
    checkpoint = driver.run("train", folder=str(project.folder))
    return (Path(checkpoint) / "model.safetensors").read_bytes(), all_metrics(project)


def all_metrics(project):
    return project.sql("SELECT step, metric, value FROM training_metrics WHERE metric <> 'train_seconds' ORDER BY ALL")


# ---- soft weights


def test_a_policy_with_soft_weights_trains_another_model_than_its_hard_mask(valued):
    soft, hard = "policy.mine={keep: 0.8, soft: rank}", "policy.mine={keep: 0.8}"
    receipts = []
    for override in (soft, hard):
        valued.mask(override, policy="mine")
        receipts.append(valued.train(override, policy="mine"))
    assert receipts[0].metrics["supervised_tokens_per_epoch"] == receipts[1].metrics["supervised_tokens_per_epoch"]
    assert receipts[0].metrics["target_loss"] != receipts[1].metrics["target_loss"]
    assert receipts[0].metrics["target_loss"] < receipts[0].metrics["target_loss_before"] - 0.3
