"""Small models of several families, with random weights, for the laws."""

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False),
    "llama_tied": lambda: LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=False),
    "qwen3_tied": lambda: Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL),
    "gemma3": lambda: Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=8),
    "gemma2": lambda: Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8),
    "mistral": lambda: MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6),
    "phi3": lambda: Phi3Config(**SMALL, num_key_value_heads=2, pad_token_id=0),
    "olmo": lambda: OlmoConfig(**SMALL, num_key_value_heads=2, clip_qkv=2.0, pad_token_id=0),
    "olmo2": lambda: Olmo2Config(**SMALL, num_key_value_heads=2, pad_token_id=0),
}
EXPERTS = {
    "mixtral": lambda: MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SMALL, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    ),
}
"""Mixtures of experts, whose fused weights no module applies position by position."""


FLOAT32_SOFTMAX = {"gemma2", "olmo"}
"""Families whose attention or layer norm casts to float32 inside also after `clean`."""


class CleanRMSNorm(nn.Module):
    """RMS norm that stays in the dtype of its input (the stock classes cast to float32 inside)."""

    def __init__(self, weight, eps, offset):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.eps, self.offset = eps, offset

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (self.weight + self.offset)


def make(family, dtype=torch.float64, *, clean=False, seed=0):
    """A model of a family, parameters spread out (biases and norms too), frozen, in eval mode."""
    torch.manual_seed(seed)
    config = (CONFIGS | EXPERTS)[family]()
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(p + 0.1 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * (0.5 if "emb" in name else 0.2))
    model = model.to(dtype)
    if clean:
        replace_norms(model)
    if family == "gemma3":  # applies its query and key norms to [B, heads, T, d]
        for name, module in model.named_modules():
            if name.endswith(("q_norm", "k_norm")):
                module.position_axis = 2
    return model.requires_grad_(False).eval()


def replace_norms(model):
    """Swap every RMS norm that casts inside for one that does not."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if "RMSNorm" in type(child).__name__:
                eps = getattr(child, "variance_epsilon", None) or child.eps
                setattr(module, name, CleanRMSNorm(child.weight.data, eps, 1.0 if "Gemma" in type(child).__name__ else 0.0))


def random_direction(model, seed=1):
    """A dense random direction over all parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for n, p in model.named_parameters()}
