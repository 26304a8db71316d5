"""Laws of models/quantised.py: values over a quantised base are those over the base with the dequantised weights."""

import json

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig

from models.adapters import adapter_names, load_adapted, put_adapters
from models.batches import collate
from models.directions import validation_gradient
from models.files import is_quantised
from models.probe import probe
from models.quantised import FrozenLinear, dequantised_weight, frozen_linear, num_parameters, replace_quantised
from models.reference import load_model
from tests.models.test_adapters import over_adapters, save_adapters
from tests.models.test_probe import expected_values, random_sequences, relative_error
from tests.reference.families import SMALL, make

CPU = torch.device("cpu")


class Int8Linear(nn.Module):
    """A weight-only int8 layer that computes with numbers of its own and hides its derivative, as kernels do."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        scale_O1 = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale_O1)
        self.register_buffer("rows", (linear.weight / scale_O1).round().to(torch.int8))

    def dequantize(self):
        return self.rows.to(self.scale.dtype) * self.scale

    def forward(self, x):
        return _Kernel.apply(x, self)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        output = torch.from_numpy(x.detach().numpy() @ layer.dequantize().numpy().T)  # outside of torch's functions
        return output if layer.bias is None else output + layer.bias

    @staticmethod
    def backward(ctx, delta):
        return delta @ ctx.layer.dequantize(), None


def each_linear(model, change):
    """Replace every linear layer inside the blocks of a model, adapted ones below their adapters."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | FrozenLinear) and ".layers." in name and "lora_" not in name and ".quantised" not in name:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, change(module))
    return model


def plain(module):
    """A linear layer with the dequantised weight of a FrozenLinear."""
    assert isinstance(module, FrozenLinear), type(module)
    made = nn.Linear(module.in_features, module.out_features, bias=module.quantised.bias is not None)
    dtype = module.quantised.scale.dtype if hasattr(module.quantised, "scale") else torch.float32
    made.weight = nn.Parameter(dequantised_weight(module.quantised, dtype), requires_grad=False)
    if module.quantised.bias is not None:
        made.bias = module.quantised.bias
    return made


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_values_over_a_quantised_base_equal_the_slow_loop(family, tmp_path):
    base = make(family, clean=True)
    folder = save_adapters(tmp_path / "adapter", base)
    model = put_adapters(base, folder)
    each_linear(model, Int8Linear)
    direction = over_adapters(model)
    ids, responses = random_sequences([11, 4, 7])
    by_the_kernel = probe(model, collate(ids, responses), {"d": direction})
    assert replace_quantised(model) == 14
    result = probe(model, collate(ids, responses), {"d": direction})
    gradient, _ = validation_gradient(model, [collate(ids, responses)], list(direction))
    assert relative_error(by_the_kernel.target_BT["d"], result.target_BT["d"]) > 0.01  # the rule is needed
    each_linear(model, plain)
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        target_T, context_T, _ = expected_values(model, one, response, direction)
        assert relative_error(result.target_BT["d"][row, : len(one)], target_T) <= 1e-9
        assert relative_error(result.context_BT["d"][row, : len(one)], context_T) <= 1e-9
    expected, _ = validation_gradient(model, [collate(ids, responses)], list(direction))
    for name, tensor in gradient.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-12)


def wide_llama(hidden_size=64):
    """A Llama whose rows are whole blocks of 64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{**SMALL, "hidden_size": hidden_size, "intermediate_size": 128}, num_key_value_heads=2, tie_word_embeddings=False
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 if parameter.dim() > 1 else parameter)
    return model.requires_grad_(False).eval()


def saved_quantised(kind, folder, model):
    """A float32 model saved quantised by a package."""
    pytest.importorskip(kind.split("-")[0], reason=f"the package {kind.split('-')[0]} is not installed")
    model.save_pretrained(folder / "plain")
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        how = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        how = (
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
            if kind.endswith("4")
            else BitsAndBytesConfig(load_in_8bit=True)
        )
    model = AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=how, device_map="cpu")
    model.save_pretrained(folder / "quantised")
    return folder / "quantised"


@pytest.mark.parametrize("kind", ["torchao", "bitsandbytes-8", "bitsandbytes-4"])
def test_values_over_a_base_saved_quantised_equal_the_slow_loop(kind, tmp_path):
    folder = saved_quantised(kind, tmp_path, wide_llama())
    assert is_quantised(folder)
    adapter = save_adapters(tmp_path / "adapter", wide_llama())
    model = load_adapted(folder, adapter, CPU)
    assert sum(isinstance(m, FrozenLinear) for m in model.modules()) == 14
    original = wide_llama()
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear):
            weight = original.get_submodule(name.removesuffix(".base_layer")).weight
            got = dequantised_weight(module.quantised, torch.float64)
            assert (got - weight).abs().max() <= (0.16 if kind.endswith("4") else 0.01) * weight.abs().max()
    direction = over_adapters(model)
    ids, responses = random_sequences([11, 6])
    result = probe(model, collate(ids, responses), {"d": direction})
    alone = probe(load_model(folder, CPU), collate(ids, responses), {})
    each_linear(model, plain).double()
    direction = {n: t.double() for n, t in direction.items()}
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        target_T, context_T, _ = expected_values(model, one, response, direction)
        assert relative_error(result.target_BT["d"][row, : len(one)].double(), target_T) <= 1e-4
        assert relative_error(result.context_BT["d"][row, : len(one)].double(), context_T) <= 1e-4
    with torch.no_grad():
        for name in adapter_names(model, only_b=True):
            model.get_parameter(name).zero_()
    expected = probe(model, collate(ids, responses), {})
    assert relative_error(alone.loss_BT.double(), expected.loss_BT) <= 1e-5  # the base without adapters is the same function


def test_a_form_that_its_package_reads_wrongly_is_refused(tmp_path):
    folder = saved_quantised("bitsandbytes-4", tmp_path, wide_llama(32))
    with pytest.raises(ValueError, match="rows of 32 in blocks of 64; on the CPU that package gives wrong weights"):
        load_model(folder, CPU)


def test_forward_and_both_derivatives_are_those_of_the_dequantised_map():
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(5, 3).double().requires_grad_(False))
    x, ẋ, δ = torch.randn(2, 4, 5).double(), torch.randn(2, 4, 5).double(), torch.randn(2, 4, 3).double()
    weight = layer.dequantize()
    output = frozen_linear(x.requires_grad_(True), layer)
    torch.testing.assert_close(output, x @ weight.T)
    torch.testing.assert_close(FrozenLinear(layer)(x), x @ weight.T + layer.bias)
    output.backward(δ)
    torch.testing.assert_close(x.grad, δ @ weight)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(frozen_linear(forward_ad.make_dual(x.detach(), ẋ), layer)).tangent
    torch.testing.assert_close(tangent, ẋ @ weight.T)


def test_no_dequantised_weight_is_kept_for_the_way_back():
    layer = Int8Linear(nn.Linear(64, 64).requires_grad_(False))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frozen_linear(torch.randn(2, 64, requires_grad=True), layer).sum().backward()
    assert not [t.shape for t in kept if t.shape == (64, 64)]


def test_parameters_are_counted_as_before_quantisation():
    model = make("qwen2", torch.float32)
    before = num_parameters(model)
    assert replace_quantised(each_linear(model, Int8Linear)) == 14
    assert num_parameters(model) == before == sum(p.numel() for p in make("qwen2").parameters())


def test_quantised_weights_without_a_rule_are_refused_by_name():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("packed", torch.zeros(4, 4, dtype=torch.uint8))

    model = make("llama", torch.float32)
    model.model.layers[1].mlp.up_proj = Foreign()
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.packed .*holds torch.uint8, a quantised weight without a rule"):
        replace_quantised(model)
    with pytest.raises(ValueError, match="Linear is no quantised linear layer"):
        dequantised_weight(nn.Linear(2, 2), torch.float32)


def test_a_base_saved_quantised_whose_package_is_missing_says_so(tmp_path):
    pytest.importorskip("transformers")
    make("llama", torch.float32).save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "nbits": 4, "group_size": 64, "skip_modules": ["lm_head"]}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportError, match="is saved quantised, and the package of its form is missing"):
        load_model(tmp_path / "base", CPU)
