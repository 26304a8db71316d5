"""Loading models and tokenizers from a folder: safetensors only, nothing remote is executed."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def resolve_device(name: str) -> torch.device:
    """Turn a device setting into a device.

    Returns:
        the device; `auto` is CUDA when present, else the CPU.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("model.device is 'cuda', but torch sees no CUDA device; set model.device to 'auto' or 'cpu'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def load_model(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a causal language model for inference: frozen, in eval mode.

    Returns:
        the model on the device.
    """
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return model.to(device).requires_grad_(False).eval()


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load a fast tokenizer.

    Returns:
        the tokenizer.

    Raises:
        ValueError: the folder's tokenizer has no fast version; offsets are needed to find response tokens.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {folder} has no fast version (tokenizer.json); convert it with transformers first")
    return tokenizer


def float32_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's parameters to float32 on the CPU, tied ones once."""
    return {name: p.detach().to("cpu", torch.float32).clone() for name, p in model.named_parameters()}
