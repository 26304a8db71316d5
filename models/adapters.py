"""LoRA adapters on a frozen base, which may be quantised: loading them, which parameters they are, and the same adapters at the base.

The model is the base's own class with adapters in some of its linear layers, y = W x + b + scale · B A x, everything frozen. Directions
are over A and B alone. The reference of stability is the same model with B = 0, whose function is the base's. There ∇_A = 0 (A
reaches the output through B), so the Fisher of A is 0 and stability covers B alone.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.adapter_files import ADAPTER_WEIGHTS, adapter_config, check_adapter_files
from models.quantised import num_parameters, replace_quantised
from models.reference import load_model, load_raw
from models.training_settings import LoraSettings

STABILITY_COVERS_B = "at the reference B = 0, where A has no gradient, so the Fisher of A is zero and stability covers lora_B alone"
"""Why stability leaves A out."""


def load_adapted(base: Path, adapter: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load adapters on their base for inference: frozen, in eval mode, without dropout.

    Parameters in half precision keep their adapters in float32, as peft trains them.

    Args:
        base: folder of the base model, perhaps saved quantised.
        adapter: folder with adapter_config.json and adapter_model.safetensors.
        device: where to.
        dtype: numbers of the base.

    Returns:
        the base's class; names of adapter weights end in `lora_A.default.weight` and `lora_B.default.weight`.
    """
    return put_adapters(load_raw(base, device, dtype), adapter)


def put_adapters(model: nn.Module, folder: Path) -> nn.Module:
    """Put the adapters of a folder on a model, in place, and freeze it; quantised layers become the linear maps they stand for.

    Returns:
        the model, its adapted layers replaced, frozen, in eval mode.
    """
    adapted: nn.Module = _with_adapters(model, folder).get_base_model()
    replace_quantised(adapted)
    return adapted.requires_grad_(False).eval()


def load_merged(base: Path, adapter: Path, device: torch.device) -> nn.Module:
    """Load a base with adapters merged into its weights (float32): what training may start from.

    Returns:
        a plain model of the base's class, frozen, in eval mode.
    """
    model: nn.Module = _with_adapters(load_model(base, device), adapter).merge_and_unload()
    return model.requires_grad_(False).eval()


def new_adapters(base: Path, device: torch.device, settings: LoraSettings, seed: int) -> Any:
    """Put fresh adapters on a base, which may be quantised: A drawn from the seed, B zero.

    Returns:
        peft's model, frozen, in eval mode; `save_adapters` saves it once it is trained.
    """
    from models.trainer import with_lora  # brings transformers' trainer, seconds that scoring need not wait for

    adapted: Any = with_lora(load_raw(base, device), settings.rank, settings.alpha, settings.dropout, settings.target_modules, seed=seed)
    replace_quantised(adapted)
    return adapted.requires_grad_(False).eval()


def save_adapters(adapted: Any, folder: Path) -> None:
    """Save adapters as peft does: adapter_config.json and adapter_model.safetensors.

    Args:
        adapted: peft's model.
        folder: where to; made when missing.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = adapted.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _with_adapters(model: nn.Module, folder: Path) -> Any:
    """Put the adapters of a folder on a model.

    Returns:
        peft's model.

    Raises:
        ImportError: peft is missing.
        ValueError: the adapters do not fit the model, or adapt a layer that directions cannot cover.
    """
    try:
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict  # optional
    except ImportError as error:
        raise ImportError("LoRA needs the package peft, which is not installed: pip install 'alphatoken[peft]'") from error
    check_adapter_files(folder)
    adapter_config(folder)
    config = LoraConfig.from_pretrained(str(folder))
    config.init_lora_weights = True  # the tensors come from the file; some starts would compute long or change the base
    config.inference_mode = True
    config.base_model_name_or_path = None  # the caller has compared it; peft would only warn
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set")  # peft sets it right by itself
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # between peft and transformers
            adapted = get_peft_model(model, config)
    except ValueError as error:  # peft names the layers that it did not find
        raise ValueError(f"the adapters of {folder} do not fit the model: {error}") from error
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    _check_tensors(folder, tensors, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    _check_layers(folder, adapted.get_base_model())
    set_peft_model_state_dict(adapted, tensors)
    return adapted


def _check_tensors(folder: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare the file's names and shapes with those of the adapters that the configuration puts on the model.

    Raises:
        ValueError: they differ.
    """
    faults = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    faults += [f"{name} has no place in the model" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name} has shape {list(found[name].shape)}, the model needs {list(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"{folder / ADAPTER_WEIGHTS} does not fit model.reference: {'; '.join(faults[:3])}{more}; give adapters that were trained on it"
        )


def _check_layers(folder: Path, model: nn.Module) -> None:
    """Refuse adapters outside linear layers, and on the head, which runs on the predictors of response tokens alone.

    Raises:
        ValueError: naming the layer.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in model.named_modules():
        if hasattr(module, "lora_embedding_A") and (module is head or len(module.lora_embedding_A)):
            kind = "the output head" if module is head else "an embedding"
            raise ValueError(f"{folder} adapts {name!r}, {kind}; directions over adapters cover linear layers before the head alone")


def adapter_names(model: nn.Module, *, only_b: bool = False) -> list[str]:
    """List the adapter weights among a model's parameters, in its order.

    Args:
        model: from `load_adapted`.
        only_b: B alone.

    Returns:
        names as in `model.named_parameters()`.
    """
    marks = (".lora_B.",) if only_b else (".lora_A.", ".lora_B.")
    return [name for name, _ in model.named_parameters() if any(mark in name for mark in marks)]


@torch.no_grad()
def to_reference(model: nn.Module) -> nn.Module:
    """Set B to zero, in place: the same adapters where the function is the base's.

    Returns:
        the same model.
    """
    parameters = dict(model.named_parameters())
    for name in adapter_names(model, only_b=True):
        parameters[name].zero_()
    return model


def coverage(model: nn.Module, scope: Sequence[str]) -> dict[str, Any]:
    """Say which share of the parameters a direction over adapters covers.

    Returns:
        scope in words, number of parameters in it, their share of all parameters and of the adapter weights.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    num_covered = sum(sizes[name] for name in scope)
    return {
        "scope": "adapter weights",
        "num_covered": num_covered,
        "covered_parameters": num_covered / num_parameters(model),
        "covered_adapter_weights": num_covered / sum(sizes[name] for name in adapter_names(model)),
    }
