"""Laws of models/adapters.py: exact values over adapter weights, B = 0 is the base, and what is refused."""

import builtins
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.adapter_files import deciding_settings
from models.adapters import adapter_names, coverage, load_adapted, load_merged, put_adapters, to_reference
from models.batches import collate
from models.directions import validation_gradient
from models.fisher import diagonal_fisher, whole_texts
from models.losses import counted
from models.probe import probe
from tests.models.test_probe import expected_values, random_sequences, relative_error
from tests.reference.families import make

peft = pytest.importorskip("peft")
CPU = torch.device("cpu")


def save_adapters(folder, model, seed=0, **settings):
    """Adapters with random A and B, saved as peft saves them; the model is left as it was."""
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    adapted.unload().requires_grad_(False)
    return folder


def edited(folder, **entries):
    """The same folder with other entries in its adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


def over_adapters(model, seed=1):
    """A random direction over the adapter weights."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    return {
        n: torch.randn(parameters[n].shape, generator=generator, dtype=torch.float64).to(parameters[n].dtype) for n in adapter_names(model)
    }


@pytest.fixture(params=["llama", "gpt2"])
def adapted(request, tmp_path):
    model = make(request.param, clean=True)
    return put_adapters(model, save_adapters(tmp_path / "adapter", model, lora_dropout=0.2))


def test_exact_values_over_adapter_weights_equal_the_slow_loop(adapted):
    direction = over_adapters(adapted)
    assert {n.split(".")[-3] for n in direction} == {"lora_A", "lora_B"}
    ids, responses = random_sequences([11, 4, 7])
    result = probe(adapted, collate(ids, responses), {"d": direction})
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        target_T, context_T, matrix_UP = expected_values(adapted, one, response, direction)
        assert relative_error(result.target_BT["d"][row, : len(one)], target_T) <= 1e-9
        assert relative_error(result.context_BT["d"][row, : len(one)], context_T) <= 1e-9
        assert torch.triu(matrix_UP).abs().max() <= 1e-12 * matrix_UP.abs().max()


def test_each_axis_sums_to_the_inner_product_of_the_sequence(adapted):
    direction = over_adapters(adapted)
    ids, responses = random_sequences([9, 17, 5], seed=3)
    batch = collate(ids, responses)
    result = probe(adapted, batch, {"d": direction})
    rows_N, positions_N = counted(batch)
    for row in range(len(ids)):
        target = result.target_BT["d"][row][positions_N[rows_N == row]].sum()
        assert target.item() == pytest.approx(result.context_BT["d"][row].sum().item(), rel=1e-9)


def test_values_of_a_and_b_add_up(adapted):
    whole = over_adapters(adapted)
    parts = {part: {n: t for n, t in whole.items() if part in n} for part in ("lora_A", "lora_B")}
    ids, responses = random_sequences([10])
    result = probe(adapted, collate(ids, responses), {"whole": whole, **parts})
    for values in (result.target_BT, result.context_BT):
        assert relative_error(values["lora_A"] + values["lora_B"], values["whole"]) <= 1e-9
        assert min(values[part].nan_to_num().abs().max() for part in parts) > 0


def test_at_the_reference_the_function_is_the_bases_and_a_has_no_gradient(tmp_path):
    base = make("llama", clean=True)
    ids = torch.tensor(random_sequences([12])[0])
    expected = base(input_ids=ids).logits
    folder = save_adapters(tmp_path / "adapter", base)
    model = put_adapters(base, folder)
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-3)
    assert torch.equal(to_reference(model)(input_ids=ids).logits, expected)
    fisher = diagonal_fisher(model, whole_texts(ids.tolist()), adapter_names(model))
    assert all(bool(f.any()) == ("lora_B" in name) for name, f in fisher.items())
    assert set(adapter_names(model, only_b=True)) == {n for n in fisher if "lora_B" in n}


def test_loaded_adapters_compute_what_peft_computes_and_merging_does_not_change_it(tmp_path):
    base = make("gpt2", torch.float32)
    base.save_pretrained(tmp_path / "base")
    folder = save_adapters(tmp_path / "adapter", base, lora_dropout=0.5, use_rslora=True, alpha_pattern={"c_fc": 2.0})
    ids = torch.tensor(random_sequences([12])[0])
    expected = peft.PeftModel.from_pretrained(make("gpt2", torch.float32), folder).eval()(input_ids=ids).logits
    model = load_adapted(tmp_path / "base", folder, CPU)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    merged = load_merged(tmp_path / "base", folder, CPU)
    assert not [n for n, _ in merged.named_parameters() if "lora" in n]
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_adapters_in_float32_and_values_close(tmp_path):
    make("llama", torch.float32).save_pretrained(tmp_path / "base")
    folder = save_adapters(tmp_path / "adapter", make("llama", torch.float32))
    half, full = (load_adapted(tmp_path / "base", folder, CPU, dtype) for dtype in (torch.bfloat16, torch.float32))
    parameters = dict(half.named_parameters())
    assert {parameters[n].dtype for n in adapter_names(half)} == {torch.float32}
    ids, responses = random_sequences([20, 12])
    direction, batch = over_adapters(full), collate(ids, responses)
    got, expected = (probe(model, batch, {"d": direction}) for model in (half, full))
    assert relative_error(got.target_BT["d"], expected.target_BT["d"]) <= 0.1
    assert relative_error(got.context_BT["d"], expected.context_BT["d"]) <= 0.1


def test_validation_gradient_is_that_of_the_adapters_alone(adapted):
    ids, responses = random_sequences([9, 6])
    scope = adapter_names(adapted)
    gradient, _ = validation_gradient(adapted, [collate(ids, responses)], scope)
    assert set(gradient) == set(scope)
    assert all(bool(g.any()) for g in gradient.values())


def test_coverage_counts_all_parameters_once(tmp_path):
    base = make("llama", clean=True)
    num_base = sum(p.numel() for p in base.parameters())
    model = put_adapters(base, save_adapters(tmp_path / "adapter", base, target_modules=["q_proj"]))
    # q_proj is 32 × 32 in two layers: A is 3 × 32, B 32 × 3
    both, only_b = (coverage(model, adapter_names(model, only_b=flag)) for flag in (False, True))
    assert both == {
        "scope": "adapter weights", "num_covered": 384, "covered_parameters": 384 / (num_base + 384), "covered_adapter_weights": 1.0,
    }  # fmt: skip
    assert (only_b["num_covered"], only_b["covered_adapter_weights"]) == (192, 0.5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type is 'IA3', expected 'LORA'"),
        ({"use_dora": True}, r"use_dora is True.*plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"bias": "all"}, r"bias is 'all'"),
        ({"lora_bias": True}, r"lora_bias is True"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights is 'pissa_niter_4', which changes the base's own weights"),
        ({"target_parameters": ["experts.up"]}, r"target_parameters is \['experts.up'\]"),
        ({"something_new": {"of": 1}}, r"something_new is \{'of': 1\}"),
        ({"target_modules": ["no_such_layer"]}, r"do not fit the model: .*no_such_layer"),
        ({"r": 2}, r"lora_A.weight has shape \[3, 32\], the model needs \[2, 32\].* and \d+ more; give adapters that were trained on it"),
        ({"target_modules": ["q_proj"]}, r"k_proj.lora_A.weight has no place in the model"),
        ({"target_modules": ["embed_tokens"]}, r"does not fit model.reference"),
    ],
)
def test_adapters_of_another_kind_or_for_another_model_are_refused_by_name(tmp_path, entries, message):
    base = make("llama", torch.float32)
    folder = edited(save_adapters(tmp_path / "adapter", base, target_modules=["q_proj", "k_proj"]), **entries)
    with pytest.raises(ValueError, match=message):
        put_adapters(base, folder)


@pytest.mark.parametrize(("layer", "kind"), [("lm_head", "the output head"), ("embed_tokens", "an embedding")])
def test_adapters_of_embeddings_and_head_are_refused(tmp_path, layer, kind):
    base = make("llama", torch.float32)
    folder = save_adapters(tmp_path / "adapter", base, target_modules=["q_proj", layer])
    with pytest.raises(ValueError, match=f"adapts '.*{layer}', {kind}"):
        put_adapters(base, folder)


def test_a_pickle_is_not_loaded(tmp_path):
    base = make("llama", torch.float32)
    folder = save_adapters(tmp_path / "adapter", base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"adapter_model.bin is a pickle, which is not loaded"):
        put_adapters(base, folder)


def test_without_peft_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    base = make("llama", torch.float32)
    folder = save_adapters(tmp_path / "adapter", base)
    real = builtins.__import__

    def no_peft(name, *rest, **named):
        if name == "peft":
            raise ImportError("no peft")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_peft)
    with pytest.raises(ImportError, match=r"pip install 'alphatoken\[peft\]'"):
        put_adapters(base, folder)


def test_settings_that_decide_numbers_leave_paths_versions_and_order_out(tmp_path):
    folder = save_adapters(tmp_path / "adapter", make("llama", torch.float32))
    before = deciding_settings(folder)
    edited(folder, base_model_name_or_path="/elsewhere", peft_version="0.0", target_modules=["b", "a"], lora_dropout=0.3, revision="main")
    assert deciding_settings(folder) == before
    for entries in ({"lora_alpha": 7}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}):
        other = tmp_path / "other"
        shutil.copytree(folder, other)
        assert deciding_settings(edited(other, **entries)) != before
        shutil.rmtree(other)


def test_a_file_that_lost_a_tensor_is_refused(tmp_path):
    base = make("llama", torch.float32)
    folder = save_adapters(tmp_path / "adapter", base)
    tensors = load_file(folder / "adapter_model.safetensors")
    gone = sorted(tensors)[0]
    save_file({n: t for n, t in tensors.items() if n != gone}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"{gone} is missing"):
        put_adapters(base, folder)
