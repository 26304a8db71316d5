"""Laws of tasks/adapters.py in whole runs: values over adapter weights, made by a warm-up or brought along."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from models.adapters import adapter_names, load_adapted
from models.batches import collate
from models.directions import load_tensors
from models.probe import probe
from models.reference import load_model
from tests.flows.world import Project, without_prefect
from tests.tasks.test_directions import artefacts

peft = pytest.importorskip("peft")
CPU = torch.device("cpu")
LORA = {"rank": 2, "alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def adapted_once(template, tmp_path_factory):
    """A project whose scoring model is a warm-up of adapters; to be copied, not used."""
    project = Project.copy_of(template, tmp_path_factory.mktemp("adapted") / "project")
    settings = project.settings()
    settings["scoring"]["warmup"] |= {"lora": LORA, "learning_rate": 2e-2}
    settings["scoring"]["stability"] = {"form": "fisher_drift"}
    project.config.write_text(yaml.safe_dump(settings))
    with without_prefect():
        project.value()
    return project


@pytest.fixture
def adapted(adapted_once, tmp_path):
    """A project of its own, valued over adapter weights."""
    with without_prefect():
        yield Project.moved(adapted_once, tmp_path / "adapted")


def said(project):
    """What the current scoring was made of."""
    return json.loads(project.sql("SELECT settings FROM scorings WHERE is_current")[0][0])


def own_adapters(project, folder, seed=0, **settings):
    """Adapters that a user trained on the project's reference."""
    base = load_model(project.model, CPU)
    model = peft.get_peft_model(
        base, peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings})
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_scoring_model_is_an_adapter_folder_and_directions_are_over_adapter_weights(adapted_once):
    found = artefacts(adapted_once)
    folder = adapted_once.warehouse / found["warmup"][1]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    model = load_adapted(adapted_once.model, folder, CPU)
    directions = {kind: load_tensors(adapted_once.warehouse / found[kind][1]) for kind in ("adapt", "fisher", "stab")}
    assert set(directions["adapt"]) == set(adapter_names(model))
    assert set(directions["fisher"]) == set(directions["stab"]) == set(adapter_names(model, only_b=True))
    for name, tensor in directions["stab"].items():  # F ⊙ (B − 0)
        assert tensor.equal(directions["fisher"][name] * model.get_parameter(name))
    assert all(bool(t.any()) for d in directions.values() for t in d.values())


def test_stored_values_are_those_of_the_probe_and_ref_loss_is_the_base_without_adapters(adapted_once):
    found = artefacts(adapted_once)
    model, base = load_adapted(adapted_once.model, adapted_once.warehouse / found["warmup"][1], CPU), load_model(adapted_once.model, CPU)
    directions = {name: load_tensors(adapted_once.warehouse / found[name][1]) for name in ("adapt", "stab")}
    columns = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss")
    rows = adapted_once.sql(
        f"SELECT token_ids, response_positions, {', '.join(columns)} FROM record.value_lists ORDER BY sequence_id LIMIT 5"
    )
    for token_ids, positions, *values in rows:
        batch = collate([token_ids], [positions])
        alone = probe(model, batch, directions)
        expected = [m[name] for name in ("adapt", "stab") for m in (alone.target_BT, alone.context_BT)]
        expected += [alone.loss_BT, probe(base, batch, {}).loss_BT]
        for name, value, matrix in zip(columns, values, expected, strict=True):
            exact = matrix[0, positions].numpy()
            assert np.abs(exact).max() > 0
            np.testing.assert_allclose(value, exact, rtol=0, atol=1e-5 * np.abs(exact).max(), err_msg=name)


def test_coverage_is_told_with_the_directions_in_the_summary_and_in_status(adapted_once):
    from reports.summary import rows
    from tasks.status import pinned
    from warehouse.read import Reader

    stored = said(adapted_once)
    assert stored["adapt"]["scope"] == stored["stab"]["scope"] == "adapter weights"
    assert (stored["adapt"]["covered_adapter_weights"], stored["adapt"]["covered_parameters"] < 0.5) == (1, True)
    assert 0 < stored["stab"]["num_covered"] < stored["adapt"]["num_covered"]
    ((counts,),) = adapted_once.sql("SELECT counts FROM runs")
    sentence = dict(rows(json.loads(counts)))["directions"]
    with Reader(adapted_once.warehouse) as reader:
        told = dict(pinned(reader))["scope"]
    for text in (sentence, told):
        assert "adapter weights only" in text
        assert "at the reference B = 0, where A has no gradient, so the Fisher of A is zero and stability covers lora_B alone" in text


def test_the_divergence_from_the_reference_covers_both_factors(adapted):
    done = adapted.value("scoring.stability.form=divergence")
    assert done.counts["score"]["num_sequences"] == 40
    stored = said(adapted)
    assert stored["stab"]["num_covered"] == stored["adapt"]["num_covered"]
    assert stored["stab"]["norm"] > 0
    assert "no gradient" not in done.counts["directions"]["coverage"]


def test_unchanged_run_writes_nothing_and_status_foresees_it(adapted):
    from tasks.settings import load
    from tasks.status import plan
    from warehouse.read import Reader

    before = adapted.bytes_of_warehouse()
    with Reader(adapted.warehouse) as reader:
        foreseen = dict(plan(load(adapted.config), reader))
    assert (foreseen["directions"], foreseen["score"]) == ("nothing to make", "nothing: 0 tokens")
    again = adapted.value()
    assert (again.counts["score"]["num_tokens"], again.counts["directions"]["num_made"], again.wrote_release) == (0, 0, False)
    assert adapted.bytes_of_warehouse() == before


def test_warm_up_of_adapters_is_seeded(adapted):
    before, values = artefacts(adapted), adapted.sql("SELECT adapt_direct FROM token_values ORDER BY ALL")
    shutil.rmtree(adapted.warehouse / before["warmup"][1])
    assert adapted.value().counts["score"]["num_sequences"] == 0
    assert artefacts(adapted) == before
    assert adapted.sql("SELECT adapt_direct FROM token_values ORDER BY ALL") == values


def test_other_adapter_settings_make_other_values_and_full_ones_have_the_old_identity(adapted, valued_once):
    assert adapted.value("scoring.warmup.lora.rank=3").counts["score"]["num_sequences"] == 40
    assert said(adapted)["scoring"]["name"] == "warm-up"
    adapted.value("scoring.warmup.lora=null", "scoring.warmup.learning_rate=3.0e-3")
    assert said(adapted)["scoring"]["digest"] == said(valued_once)["scoring"]["digest"]


def test_training_goes_on_from_the_reference_with_adapters_and_from_the_scoring_model(adapted):
    receipt = adapted.train("training.lora={rank: 4}", "training.learning_rate=1.0e-2")
    assert receipt.metrics["target_loss"] < receipt.metrics["target_loss_before"]
    merged = adapted.train("training.start=scoring")
    assert merged.metrics["target_loss_before"] < receipt.metrics["target_loss_before"]  # the adapters are in it
    tensors = load_file(f"{merged.checkpoint}/model.safetensors")
    assert set(tensors) == set(load_file(adapted.model / "model.safetensors"))


def test_own_adapters_are_scored_and_edited_ones_anew(project, tmp_path):
    folder = own_adapters(project, tmp_path / "mine")
    first = project.value(f"model.scoring={folder}")
    assert first.counts["score"]["num_sequences"] == 40
    assert not first.counts["directions"]["stability_is_zero"]
    names = load_tensors(project.warehouse / artefacts(project)["adapt"][1])
    assert {n.split(".")[-4] for n in names} == {"q_proj", "v_proj"}
    before = project.bytes_of_warehouse()
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"target_modules": config["target_modules"][::-1], "peft_version": "0.0", "inference_mode": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))  # nothing that decides a number
    assert not project.value(f"model.scoring={folder}").wrote_release
    assert project.bytes_of_warehouse() == before
    ids = project.sql("SELECT ref_signals_id FROM scorings WHERE is_current")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({n: t * 1.5 for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    assert project.value(f"model.scoring={folder}").counts["score"]["num_sequences"] == 40
    assert project.sql("SELECT ref_signals_id FROM scorings WHERE is_current") == ids  # the base alone


def test_adapters_that_change_nothing_have_no_stability(project, tmp_path, told):
    folder = own_adapters(project, tmp_path / "mine")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({n: torch.zeros_like(t) if "lora_B" in n else t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    assert project.value(f"model.scoring={folder}").counts["directions"]["stability_is_zero"]
    assert "every stability value" in told.text
    assert project.sql("SELECT max(abs(stab_direct)), max(abs(adapt_direct)) > 0 FROM token_values") == [(0.0, True)]


def test_adapters_of_another_base_are_refused(project, tmp_path):
    from tests.flows.world import make_model

    other = Project.copy_of(project.folder, tmp_path / "other")
    words = ["one", "two", "three"]
    make_model(tmp_path / "model", words, ["one two three"] * 20)
    settings = other.settings()
    settings["model"]["reference"] = str(tmp_path / "model")
    other.config.write_text(yaml.safe_dump(settings))
    folder = own_adapters(other, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"were trained on .*model, whose weights are not those of model.reference"):
        project.value(f"model.scoring={folder}")
    shutil.rmtree(tmp_path / "model")  # its base cannot be looked at any more: names and shapes remain
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({n.replace("layers.1", "layers.7"): t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit model.reference: .*layers.1.*is missing"):
        project.value(f"model.scoring={folder}")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["model.scoring={mine}/nowhere"], FileNotFoundError, "does not exist"),
        (["model.reference={mine}"], ValueError, "holds LoRA adapters, not a whole model; give their base as model.reference"),
        (["scoring.warmup.lora={{rank: 2, dropout: 0.1}}"], ValueError, r"dropout 0.1 \(must be 0: the warm-up trains without dropout\)"),
        (["scoring.warmup.lora={{rank: 2}}", "scoring.warmup.steps=0"], ValueError, r"scoring.warmup.steps 0 \(at least 1"),
        (["scoring.warmup.lora={{target_modules: [nowhere]}}"], ValueError, "nowhere"),
        (
            ["model.scoring={mine}", "scoring.scope_exclude=['*lora_B*']", "scoring.stability.form=fisher_drift"],
            ValueError,
            "leaves no lora_B in scope",
        ),
        (["model.scoring={mine}", "scoring.scope_exclude=['*embed*']"], ValueError, "matches none of 8 parameters"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_what_to_do(project, tmp_path, overrides, error, message):
    folder = own_adapters(project, tmp_path / "mine")
    with pytest.raises(error, match=message):
        project.value(*(o.format(mine=folder) for o in overrides))


def test_quantised_base_without_adapters_is_refused(project, tmp_path):
    shutil.copytree(project.model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"are saved quantised and have no gradient.*set scoring.warmup.lora"):
        project.value(f"model.reference={tmp_path / 'model'}")


@pytest.mark.parametrize("kind", ["torchao"])
def test_values_over_a_base_saved_quantised(project, tmp_path, kind):
    pytest.importorskip(kind, reason=f"the package {kind} is not installed")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

    AutoModelForCausalLM.from_pretrained(
        project.model, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), device_map="cpu"
    ).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(project.model).save_pretrained(tmp_path / "model")
    settings = [f"model.reference={tmp_path / 'model'}", "scoring.warmup.lora={rank: 2}", "scoring.warmup.learning_rate=2.0e-2"]
    project.value(*settings)
    stored = said(project)
    assert 0 < stored["adapt"]["covered_parameters"] < 0.5
    assert stored["stab"]["norm"] > 0
    assert not project.value(*settings).wrote_release
    with pytest.raises(ValueError, match=r"is saved quantised, and `alphatoken train` trains plain weights only"):
        project.train(*settings)
