"""Laws of examples/trl_dpo.py: TRL's DPOTrainer, plain and with the recipe, has the gradient of our losses on the same pairs.

Models are of float64, but TRL's language-model head computes log-probabilities in float32: 2e-7 is what is left of a difference.
"""

import importlib.util
import re
from pathlib import Path

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from models.preference import Pairs, pair_losses, reference_log_probs
from models.training_settings import PreferenceSettings
from tests.models.pair_batches import batch_of, make_pairs, reference_of
from tests.reference.families import make
from tests.warehouse.test_characters import byte_level

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "trl_dpo.py"
BETA = 0.3


def load_recipe():
    spec = importlib.util.spec_from_file_location("trl_dpo", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return load_recipe()


@pytest.fixture(scope="module")
def reference():
    return make("llama", torch.float64, clean=True, seed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), pad_token="<|im_end|>", eos_token="<|im_end|>")


def policy():
    return make("llama", torch.float64, clean=True).requires_grad_(True)


def rows_of(pairs, reference):
    """What the export writes of such pairs."""
    of, rows = reference_of(reference), []
    for pair in pairs:
        row = {"prompt_ids": pair["chosen"][0][: pair["chosen"][1][0]]}
        for branch, (ids, positions, weights) in pair.items():
            ref = of(ids)
            row[f"{branch}_ids"] = ids[positions[0] :]
            row[f"{branch}_mask"] = [int(w > 0 and u > 0) for u, w in zip(positions, weights, strict=True)]
            row[f"{branch}_response_mask"] = [int(u > 0) for u in positions]
            row[f"{branch}_ref_log_probs"] = [ref[u] if u > 0 else 0.0 for u in positions]
            if any(0 < w < 1 for w in weights):
                row[f"{branch}_weights"] = weights
        rows.append(row)
    return rows


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def ours(pairs, reference, *, soft=False, **settings):
    model = policy()
    batch = {name: torch.as_tensor(value) for name, value in batch_of(pairs, reference_of(reference), soft=soft).items()}
    batch["ref_log_probs"] = reference_log_probs(reference, *(batch[name] for name in ("input_ids", "attention_mask", "response_labels")))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return gradient(model, pair_losses(logits, Pairs.of(batch), PreferenceSettings(beta=BETA, **settings)).losses_P.mean())


def theirs(folder, tokenizer, rows, reference, kind=DPOTrainer, collator=None, **options):
    """Gradient of TRL's loss on all rows as one batch."""
    model = policy()
    collator = collator or DataCollatorForPreference(pad_token_id=0)
    args = DPOConfig(
        output_dir=str(folder), beta=BETA, max_length=None, bf16=False, use_cpu=True, report_to="none", disable_tqdm=True,
        gradient_checkpointing=False, dataloader_pin_memory=False, per_device_train_batch_size=len(rows), max_steps=1, **options,
    )  # fmt: skip

    class Prepared(kind):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    trainer = Prepared(
        model, reference, args, data_collator=collator, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    model.train()
    return gradient(model, trainer.compute_loss(model, batch))


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def with_prompts(num_pairs, seed, **more):
    """Pairs whose responses do not begin at position 0: TRL's lengths count such a token, though it has no loss."""
    return [pair for pair in make_pairs(3 * num_pairs, seed, **more) if pair["chosen"][1][0] > 0][:num_pairs]


@pytest.mark.parametrize("loss", ["token_weighted", "masked_margin", "dpo"])
def test_with_all_tokens_kept_the_gradient_is_that_of_trls_dpo_trainer(tmp_path, tokenizer, reference, loss):
    pairs = with_prompts(4, 1, share=2.0)
    assert relative(ours(pairs, reference, loss=loss), theirs(tmp_path, tokenizer, rows_of(pairs, reference), reference)) < 1e-6


def test_label_smoothing_and_length_normalization_are_trls(tmp_path, tokenizer, reference):
    """TRL smooths no plain sigmoid loss; of a single pair its `aot_unpaired` is that."""
    pairs = with_prompts(4, 2, share=2.0)
    normalized = theirs(tmp_path, tokenizer, rows_of(pairs, reference), reference, loss_type=["sigmoid_norm"])
    smoothed = theirs(tmp_path, tokenizer, rows_of(pairs[:1], reference), reference, loss_type=["aot_unpaired"], label_smoothing=0.2)
    for loss in ("token_weighted", "dpo"):
        assert relative(ours(pairs, reference, loss=loss, length_normalization=True), normalized) < 1e-6
        assert relative(ours(pairs[:1], reference, loss=loss, label_smoothing=0.2), smoothed) < 1e-6


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("loss", "soft"), [("masked_margin", False), ("token_weighted", False), ("token_weighted", True)])
def test_the_recipes_gradient_is_ours(tmp_path, tokenizer, reference, recipe, loss, soft, in_memory):
    pairs = make_pairs(5, 3, soft=soft, empty=(2,))
    collator = recipe.MaskedPreferenceCollator(0, loss)
    rows = rows_of(pairs, reference)
    if soft:  # the export has the column in all rows
        for row, pair in zip(rows, pairs, strict=True):
            row |= {f"{branch}_weights": [w * (u > 0) for u, w in zip(*pair[branch][1:], strict=True)] for branch in pair}
    found = theirs(
        tmp_path,
        tokenizer,
        rows,
        reference if in_memory else None,
        recipe.MaskedDPOTrainer,
        collator,
        precompute_ref_log_probs=not in_memory,
    )
    expected = ours(pairs, reference, loss=loss, soft=soft)
    assert relative(found, expected) < 1e-6
    plain = theirs(tmp_path, tokenizer, rows, reference)
    assert relative(plain, expected) > 0.1  # TRL's own classes do not see the masks


def test_a_masked_margin_refuses_soft_weights(recipe, reference):
    rows = rows_of(make_pairs(2, 4, share=2.0, soft=True), reference)
    with pytest.raises(ValueError, match="soft weights, and a masked margin takes none"):
        recipe.MaskedPreferenceCollator(0, "masked_margin")(rows)
    with pytest.raises(ValueError, match="expected one of masked_margin, token_weighted"):
        recipe.MaskedPreferenceCollator(0, "other")


def test_stored_log_probabilities_are_those_of_trls_reference(tmp_path, tokenizer, reference, recipe):
    rows = rows_of(make_pairs(3, 5), reference)
    batch = recipe.MaskedPreferenceCollator(0)(rows)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    fresh = reference_log_probs(reference, batch["input_ids"], batch["attention_mask"], labels).sum(-1)
    assert torch.allclose(torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]).double(), fresh, rtol=1e-6)


def test_the_document_runs_as_it_is_printed(tmp_path, tokenizer, reference, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trl.md").read_text(), flags=re.S)
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    datasets.Dataset.from_list(rows_of(make_pairs(4, 6), reference)).to_parquet(str(tmp_path / "pairs" / "train.parquet"))
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    more = {"max_steps": 2, "bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False, "save_strategy": "no"}
    told = {"MODEL": str(tmp_path / "model"), "MORE": more}
    exec(block, told)
    assert told["trainer"].state.global_step == 2
    assert told["trainer"].ref_model is None
    trained = told["trainer"].model.state_dict()
    assert any(not torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
