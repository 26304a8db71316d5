"""Looks at the folders of models before anything is made with them."""

import json
from pathlib import Path

from models.files import weight_files


def check_weights(folder: Path) -> None:
    """Read the headers of a model's weights, which tell a cut file before anything is made of it.

    Raises:
        ValueError: a file is not whole.
    """
    from safetensors import SafetensorError, safe_open

    for file in weight_files(folder)[1:]:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}); save or fetch it again") from error


_SHAPE = (
    "model_type", "vocab_size", "hidden_size", "n_embd", "intermediate_size", "num_hidden_layers", "n_layer", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
"""Entries of config.json that two models must share for a drift between them to exist."""


def check_same_shape(reference: Path, scoring: Path) -> None:
    """Compare what the configurations say of the parameters' shapes.

    Raises:
        ValueError: they differ.
    """
    one, other = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (reference, scoring))
    one, other = one.get("text_config") or one, other.get("text_config") or other
    different = [f"{key} {other.get(key)} (reference: {one.get(key)})" for key in _SHAPE if one.get(key) != other.get(key)]
    if different:
        raise ValueError(
            f"model.scoring {scoring} is no checkpoint of model.reference {reference}: {', '.join(different)}; "
            "give a model fine-tuned from the reference, with its vocabulary"
        )
