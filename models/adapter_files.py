"""The files of LoRA adapters: how a folder is known, what it must say, and what of it decides numbers. No torch here."""

import json
from pathlib import Path
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_DECIDING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
"""Entries that the function of the adapters depends on beside their tensors: the scale of every update."""

_NEUTRAL = {
    *_DECIDING, "peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "eva_config",
    "fan_in_fan_out", "qalora_group_size", "runtime_config", "megatron_core",
}  # fmt: skip
"""Entries that any value is fine for: the above, what names layers, training alone, and options of methods that are off."""

_INITIALISATIONS = {True, False, None, "gaussian", "orthogonal", "eva"}
"""Starts of adapters that leave the base as it is; others (pissa, olora, loftq, corda) move a part of the base into the adapters."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters as peft saves them, not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def check_adapter_files(folder: Path) -> None:
    """Look whether an adapter folder is complete and safe to load.

    Raises:
        FileNotFoundError: there is no safetensors file.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickle = "; adapter_model.bin is a pickle, which is not loaded: load it where you trust it and save it with safe_serialization=True"
        raise FileNotFoundError(
            f"{folder} holds {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}{pickle if (folder / 'adapter_model.bin').is_file() else ''}"
        )


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json and refuse, by name, all but plain LoRA.

    Plain means that the function is the base's plus scale · B A x in some linear layers, so that B = 0 gives the base back.

    Returns:
        the file's entries.

    Raises:
        ValueError: the file is not JSON, or the adapters are of another kind.
    """
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save the adapters again") from error
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        kind = found.get("peft_type") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path}: peft_type is {kind!r}, expected 'LORA'; directions over other adapters are not supported")
    faults = [f"{key} is {value!r}" for key, value in found.items() if key not in _NEUTRAL and value not in (None, False, [], {}, "none")]
    start = found.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _INITIALISATIONS:
        faults.append(f"init_lora_weights is {start!r}, which changes the base's own weights")
    if faults:
        raise ValueError(
            f"{path}: {'; '.join(faults)}. Only plain LoRA has directions here (the base plus scale · B A x in linear layers): train "
            "such adapters, or merge these into the weights and give the merged model"
        )
    return found


def deciding_settings(folder: Path) -> dict[str, Any]:
    """Return what of adapter_config.json the numbers depend on, beside the tensors; paths, versions and order of names left out."""
    found = adapter_config(folder)
    return {key: found.get(key) for key in _DECIDING}
