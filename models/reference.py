"""Loading models and tokenizers from a folder: safetensors only, nothing remote is executed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.files import is_quantised
from models.quantised import replace_quantised

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


def load_raw(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a causal language model as it was saved, quantised layers in their own form.

    Returns:
        the model on the device.

    Raises:
        ImportError: the model is saved quantised and the package of its form is missing.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if not is_quantised(folder):
        plain: nn.Module = AutoModelForCausalLM.from_pretrained(folder, **options)
        return plain.to(device)
    try:  # such a model is put on its device while it is loaded: some forms cannot be moved
        quantised: nn.Module = AutoModelForCausalLM.from_pretrained(folder, device_map={"": device}, **options)
    except ImportError as error:
        raise ImportError(f"{folder} is saved quantised, and the package of its form is missing: {error}") from error
    return quantised


def load_model(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a causal language model for inference: frozen, in eval mode, quantised layers as the linear maps they stand for.

    Returns:
        the model on the device.
    """
    model = load_raw(folder, device, dtype)
    if is_quantised(folder):
        replace_quantised(model)
    return model.requires_grad_(False).eval()


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
