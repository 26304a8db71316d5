"""Laws of models/blocks.py: which weights belong to the last blocks, and which models are refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MixtralConfig

from models.blocks import block_scope, last_blocks
from tests.reference.value_propagation import SMALL, build, layer_paths, value_outputs

FAMILIES = ["llama", "qwen3_tied", "gpt2", "gpt_neox", "phi3", "gemma2", "gemma3_sliding"]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_scope_is_the_linear_layers_of_the_last_blocks(family, number):
    model = build(family, torch.float32)
    expected = [f"{path}.weight" for paths, _ in layer_paths(family, model, number) for path in paths]
    assert sorted(block_scope(model, number, ())) == sorted(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_one_projection_per_block(family):
    model = build(family, torch.float32)
    blocks = last_blocks(model, 2)
    found = {layer.block: layer for layer in blocks.layers if layer.values is not None}
    for block, (_, values) in enumerate(layer_paths(family, model, 2)):
        assert found[block].name == f"{values}.weight"
        outputs = torch.arange(10**4)[: found[block].apply(found[block].module.weight, torch.zeros(1, 32)).shape[-1]]
        assert outputs[found[block].values].tolist() == value_outputs(family, model, model.get_submodule(values))
    assert sum(layer.values is not None for layer in blocks.layers) == 2


def test_more_blocks_than_there_are_are_refused_with_their_number():
    with pytest.raises(ValueError, match=r"scoring.propagation.last_blocks is 3, but the model has 2 blocks; set it to 2 or less"):
        last_blocks(build("llama"), 3)


def test_scope_exclude_may_name_any_parameter_but_no_value_projection():
    model = build("llama")
    whole = block_scope(model, 1, ())
    assert block_scope(model, 1, ["model.embed_tokens.*", "*.mlp.*"]) == [name for name in whole if ".mlp." not in name]
    with pytest.raises(ValueError, match=r"leaves out model.layers.1.self_attn.v_proj.weight, the value projection"):
        block_scope(model, 1, ["*.v_proj.weight"])
    with pytest.raises(ValueError, match="matches none of"):
        block_scope(model, 1, ["nothing.*"])


def test_a_fused_projection_of_unknown_layout_is_refused_by_family():
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match=r"the layout of self_attention.query_key_value in BloomForCausalLM \(bloom\) is not known"):
        last_blocks(bloom, 1)


def test_fused_experts_are_refused_unless_left_out():
    model = AutoModelForCausalLM.from_config(MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2))
    with pytest.raises(ValueError, match=r"model.layers.1.mlp\S+ of MixtralForCausalLM \(mixtral\) is a weight, but of no torch.nn.Linear"):
        block_scope(model, 1, ())
    assert all(".self_attn." in name for name in block_scope(model, 1, ["*.mlp.*"]))
