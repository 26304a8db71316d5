"""The paper's released estimator, slow and written from its equations (arXiv 2606.01635 Eq. 8–11; DESIGN 3.3): loops, float64, one sequence.

h and δ of every linear layer are recorded in one ordinary pass with eager attention, whose weights the model returns. Which layers a block
has and which of their outputs are values is written out per family. Shares no code with models/.
"""

import copy

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Phi3Config

from tests.reference.families import CONFIGS, SMALL, make

EXTRA = {
    "phi3": lambda: Phi3Config(**SMALL, num_key_value_heads=2, pad_token_id=0),
    "mistral_sliding": lambda: MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=3),
    "gemma3_sliding": lambda: Gemma3TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, sliding_window=3, layer_types=["full_attention", "sliding_attention"]
    ),
}
_GATED = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
_LLAMA = ("model.layers", [f"self_attn.{x}_proj" for x in "qkvo"] + _GATED, "self_attn.v_proj")
LAYERS = {
    "gpt2": ("transformer.h", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], "attn.c_attn"),
    "gpt_neox": (
        "gpt_neox.layers",
        ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        "attention.query_key_value",
    ),
    "phi3": ("model.layers", ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"], "self_attn.qkv_proj"),
}
"""Family to (list of blocks, linear layers of a block, the one that makes values)."""


def build(family, dtype=torch.float64, attention="sdpa"):
    """A model of a family with random weights, frozen, in eval mode."""
    if family in CONFIGS:
        model = make(family, dtype)
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(EXTRA[family]())
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p + 0.1 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * 0.2)
        model = model.to(dtype).requires_grad_(False).eval()
    if family != "gemma2":  # has no SDPA: its kernel has no softcap
        model.set_attn_implementation(attention)
    return model


def value_outputs(family, model, layer):
    """Outputs of the value-making layer that are values."""
    config = model.config
    if family == "gpt2":
        return list(range(2 * config.n_embd, 3 * config.n_embd))
    if family == "gpt_neox":
        size = config.hidden_size // config.num_attention_heads
        return [head * 3 * size + 2 * size + i for head in range(config.num_attention_heads) for i in range(size)]
    if family == "phi3":
        size = config.hidden_size // config.num_attention_heads
        first = (config.num_attention_heads + config.num_key_value_heads) * size
        return list(range(first, first + config.num_key_value_heads * size))
    return list(range(layer.weight.shape[0]))


def layer_paths(family, model, last_blocks):
    """Per block of the last ones: (path of each linear layer, path of the one that makes values)."""
    blocks, layers, values = LAYERS.get(family, _LLAMA)
    numbers = range(model.config.num_hidden_layers - last_blocks, model.config.num_hidden_layers)
    return [([f"{blocks}.{b}.{layer}" for layer in layers], f"{blocks}.{b}.{values}") for b in numbers]


def as_rows(layer, matrix):
    """A weight-shaped matrix as [outputs][inputs]; GPT-2's Conv1D keeps it the other way."""
    return matrix.double() if isinstance(layer, nn.Linear) else matrix.double().T


def trace(family, model, ids, response, last_blocks):
    """h and δ per layer path ([T, I], [T, O]) of Σ over response tokens of their loss, and A per block ([heads, T, T])."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    paths = [path for layers, _ in layer_paths(family, model, last_blocks) for path in layers]
    inputs, outputs = {}, {}

    def record(path):
        def hook(module, args, output):
            output.retain_grad()
            inputs[path], outputs[path] = args[0].detach(), output

        return hook

    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    for path in paths:
        model.get_submodule(path).register_forward_hook(record(path))
    result = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
    log_probs = torch.log_softmax(result.logits[0], dim=-1)
    sum((-log_probs[u - 1, ids[u]] for u in response if u > 0), torch.zeros(())).backward()
    h = {path: inputs[path].reshape(len(ids), -1).double() for path in paths}
    delta = {path: outputs[path].grad.reshape(len(ids), -1).double() for path in paths}
    return h, delta, [a[0].detach().double() for a in result.attentions[-last_blocks:]]


def slow_values(family, model, ids, response, direction, last_blocks, window):
    """(direct, causal) of every response token, NaN at position 0."""
    if not any(response):  # no token has a loss
        return [float("nan")] * len(response), [float("nan")] * len(response)
    h, delta, attentions = trace(family, model, ids, response, last_blocks)
    matrices = {path: as_rows(model.get_submodule(path), direction[f"{path}.weight"]) for path in h}
    direct, causal = [], []
    for u in response:
        t = u - 1
        if t < 0:
            direct.append(float("nan"))
            causal.append(float("nan"))
            continue
        total_direct = total_causal = 0.0
        for (layers, values), weights in zip(layer_paths(family, model, last_blocks), attentions, strict=True):
            for path in layers:
                for o, row in enumerate(matrices[path]):
                    total_direct += delta[path][t, o].item() * torch.dot(row, h[path][t]).item()
            chosen = value_outputs(family, model, model.get_submodule(values))
            for k in range(t + 1, min(t + window, len(ids) - 1) + 1):
                mean = sum(head[k, t].item() for head in weights) / len(weights)
                for o in chosen:
                    total_causal += mean * delta[values][k, o].item() * torch.dot(matrices[values][o], h[values][t]).item()
        direct.append(total_direct)
        causal.append(total_causal)
    return direct, causal


def slow_fisher(family, model, texts, last_blocks):
    """Token-level F per weight: mean over texts of Σ_t δ_t² (h_t²)ᵀ."""
    total = {}
    for ids, positions in texts:
        h, delta, _ = trace(family, model, ids, positions, last_blocks)
        for path in h:
            for t in range(len(ids)):
                one = torch.outer(delta[path][t] ** 2, h[path][t] ** 2)
                one = one if isinstance(model.get_submodule(path), nn.Linear) else one.T
                total[f"{path}.weight"] = total.get(f"{path}.weight", 0) + one / len(texts)
    return total
