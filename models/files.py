"""Where models and tokenizers lie, and which files decide their numbers. No torch here."""

import json
import os
from pathlib import Path

from models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter_files, is_adapter

_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_TOKENIZER_MARKS = ("token", "vocab", "merges", "special", "added", "chat_template")


def resolve_folder(name: str, base: Path, revision: str | None = None, *, download: bool = True, adapters: bool = False) -> Path:
    """Find the folder of a model: a local one (relative to `base`), else a hub snapshot, downloaded once and cached.

    Args:
        name: folder or hub name.
        base: where relative folders start.
        revision: revision of a hub name.
        download: ask the hub; otherwise only look into its local cache.
        adapters: whether the folder may hold LoRA adapters instead of a whole model.

    Returns:
        a folder with config.json and weights in safetensors, or one with adapters.

    Raises:
        FileNotFoundError: neither a folder nor to be had from the hub, or it holds no safetensors.
        ValueError: the folder holds adapters where a whole model is needed.
    """
    local = Path(base, os.path.expanduser(name))
    if local.is_dir():
        folder = local.resolve()
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"model folder {local} does not exist; give a folder saved with save_pretrained, or a hub name like 'org/name'"
        )
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_MODEL_FILES), local_files_only=not download))
        except Exception as error:
            raise FileNotFoundError(
                f"model {name!r} is no folder at {local}, and the hub did not give it ({type(error).__name__}: {error}); "
                "check the name and the network, or give a local folder with --set model.reference=PATH"
            ) from error
    if is_adapter(folder):
        if not adapters:
            raise ValueError(
                f"{folder} holds LoRA adapters, not a whole model; give their base as model.reference, and them as model.scoring"
            )
        check_adapter_files(folder)
        return folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; expected a folder saved with save_pretrained")
    if not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} holds no *.safetensors; weights in pickle files are not loaded: save them with safe_serialization=True"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """List the files that decide a model's numbers: its configuration and its weights (of adapters: their own)."""
    if is_adapter(folder):
        return [folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def is_quantised(folder: Path) -> bool:
    """Whether the weights of a model are saved quantised: its config.json says so."""
    path = folder / "config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("quantization_config"))


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files that decide a tokenizer's ids and its chat template."""
    return sorted(
        p for p in folder.iterdir() if p.is_file() and any(mark in p.name for mark in _TOKENIZER_MARKS) and p.suffix != ".safetensors"
    )


def context_length(folder: Path) -> int | None:
    """Read the longest sequence a model takes from its config.json; None where it states none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(text.get(key), int) and text[key] > 0:
            return int(text[key])
    return None
