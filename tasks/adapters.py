"""Adapters as the scoring model: made, checked and loaded here, so that the stages need not ask what kind of model they have."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.adapter_files import adapter_config, is_adapter
from models.files import is_quantised
from tasks import identities
from tasks.runs import Run
from tasks.settings import Configuration
from warehouse.connect import Warehouse

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger("alphatoken")


@dataclass(frozen=True)
class Models:
    """Folders and digests of the reference and the scoring model."""

    reference: Path
    reference_digest: str
    scoring: Path
    scoring_digest: str

    @property
    def fisher_digest(self) -> str:
        """Digest of the model that a Fisher is estimated of: the reference, in the coordinates of the adapters where there are any."""
        return self.scoring_digest if is_adapter(self.scoring) else self.reference_digest


def check_scoring(warehouse: Warehouse, config: Configuration, reference: Path, scoring: Path) -> None:
    """Look whether adapters given as the scoring model are of a kind that is supported, and were trained on the reference.

    Adapters tell what they were trained on as a folder or a name. A folder that is there is compared by its weights; of a name nothing
    can be told, so a name that is not the reference's is a warning. Names and shapes of the tensors are checked when they are loaded.

    Raises:
        ValueError: they are of another kind, or their base has other weights.
    """
    base = adapter_config(scoring).get("base_model_name_or_path")
    if not base or base == config.model.reference:
        return
    folder = config.base / Path(base).expanduser()
    ours, theirs = (_weights(warehouse, one) if one.is_dir() else {} for one in (reference, folder))
    if ours == theirs:
        return
    if ours.keys() == theirs.keys():
        raise ValueError(
            f"the adapters of {scoring} were trained on {base}, whose weights are not those of model.reference {reference}; give that "
            "model as the reference, or correct base_model_name_or_path in adapter_config.json"
        )
    logger.warning(
        "the adapters of %s say that they were trained on %s; whether that is model.reference %s cannot be told from here",
        scoring,
        base,
        config.model.reference,
    )


def _weights(warehouse: Warehouse, folder: Path) -> dict[str, str]:
    return {path.name: identities.file_digest(warehouse, path) for path in sorted(folder.glob("*.safetensors"))}


def check_quantised(config: Configuration, reference: Path, scoring: Path | None) -> None:
    """Refuse directions over quantised weights, which have no gradient.

    Args:
        config: the configuration.
        reference: folder of the reference.
        scoring: folder of `model.scoring`, if any.

    Raises:
        ValueError: the scoring model's own weights would be in scope and are quantised.
    """
    by_adapters = is_adapter(scoring) if scoring is not None else config.scoring.warmup.lora is not None
    if not by_adapters and (is_quantised(reference) or (scoring is not None and is_quantised(scoring))):
        raise ValueError(
            f"the weights of {reference if is_quantised(reference) else scoring} are saved quantised and have no gradient; values over "
            "such a base are taken over adapter weights: set scoring.warmup.lora, or give adapters as model.scoring"
        )


def load_for_warm_up(run: Run, reference: Path) -> "tuple[nn.Module, list[str] | None]":
    """Load what a warm-up trains: the reference, or seeded adapters on the frozen reference.

    Returns:
        (model, names of the parameters to train or None for all).
    """
    from models.reference import load_model, resolve_device

    device, settings = resolve_device(run.config.model.device), run.config.scoring.warmup
    if settings.lora is None:
        return load_model(reference, device), None
    from models.adapters import adapter_names, new_adapters

    model: nn.Module = new_adapters(reference, device, settings.lora, settings.seed)
    return model, adapter_names(model)


def save_warm_up(run: Run, model: Any, path: Path) -> None:
    """Save a warmed-up model, or its adapters alone."""
    if run.config.scoring.warmup.lora is None:
        model.cpu().save_pretrained(path)
        return
    from models.adapters import save_adapters

    save_adapters(model, path)


def load_scoring(reference: Path, scoring: Path, device: "torch.device", dtype: "torch.dtype | None" = None) -> "nn.Module":
    """Load the scoring model, frozen: a folder of its own, or adapters on the reference.

    Returns:
        the model, float32 where no dtype is given.
    """
    import torch

    from models.reference import load_model

    if not is_adapter(scoring):
        return load_model(scoring, device, dtype or torch.float32)
    from models.adapters import load_adapted

    return load_adapted(reference, scoring, device, dtype or torch.float32)


def load_reference(reference: Path, scoring: Path, device: "torch.device") -> "nn.Module":
    """Load the reference in the parameters of the scoring model, float32: with adapters, the same ones where B = 0.

    Returns:
        a model with the parameter names of the scoring model and the function of the reference.
    """
    from models.reference import load_model

    if not is_adapter(scoring):
        return load_model(reference, device)
    from models.adapters import load_adapted, to_reference

    return to_reference(load_adapted(reference, scoring, device))


def scope(model: "nn.Module", scoring: Path, exclude: Sequence[str], *, at_reference: bool = False) -> list[str]:
    """List the parameters of a direction: adapter weights alone where the scoring model has adapters.

    Args:
        model: from `load_scoring` or `load_reference`.
        scoring: folder of the scoring model.
        exclude: `scoring.scope_exclude`.
        at_reference: whether the gradients are taken at the reference, where those of A vanish.

    Returns:
        names, in the model's order.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left.
    """
    from models.adapters import adapter_names
    from models.directions import in_scope

    if not is_adapter(scoring):
        return in_scope([name for name, _ in model.named_parameters()], exclude)
    kept = in_scope(adapter_names(model), exclude)
    if at_reference:
        only_b = set(adapter_names(model, only_b=True))
        kept = [name for name in kept if name in only_b]
        if not kept:
            raise ValueError(f"scoring.scope_exclude: {list(exclude)} leaves no lora_B in scope, which alone has stability; see README")
    return kept


def covered(model: "nn.Module", scoring: Path, names: Sequence[str], *, at_reference: bool = False) -> dict[str, Any]:
    """Say what a direction covers, for the details that are stored with it.

    Returns:
        share of all parameters; of adapters what they are, how many, and why stability leaves A out.
    """
    from models.adapters import STABILITY_COVERS_B, coverage

    if not is_adapter(scoring):
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        return {"covered_parameters": sum(sizes[name] for name in names) / sum(sizes.values())}
    return {**coverage(model, names), **({"why": STABILITY_COVERS_B} if at_reference else {})}


def coverage_text(described: Mapping[str, Any]) -> str:
    """Say in a sentence which share of the parameters a scoring covers, and of adapters what else there is to know.

    Args:
        described: what the `scorings` table keeps of the scoring.

    Returns:
        the sentence.
    """
    adapt, stab = described["adapt"], described["stab"]
    if adapt.get("scope") != "adapter weights":
        share = adapt["covered_parameters"]
        return f"{share:.1%} of the parameters covered by adaptation, {stab.get('covered_parameters', share):.1%} by stability"
    why = f": {stab['why']}" if "why" in stab else ""
    return (
        f"adapter weights only: {adapt['num_covered']:,} of them in scope ({adapt['covered_adapter_weights']:.1%}), "
        f"{adapt['covered_parameters']:.2%} of all parameters; stability over {stab['num_covered']:,} ({stab['covered_adapter_weights']:.1%}){why}"
    )


def load_start(reference: Path, start: Path, device: "torch.device") -> "tuple[nn.Module, Any]":
    """Load the weights that training starts from, adapters merged into the reference, and the tokenizer.

    Returns:
        (model, tokenizer).

    Raises:
        ValueError: the weights are quantised.
    """
    from models.reference import load_model, load_tokenizer

    for folder in (start, reference) if is_adapter(start) else (start,):
        if is_quantised(folder):
            raise ValueError(
                f"{folder} is saved quantised, and `alphatoken train` trains plain weights only; train with a tool of your own on the "
                "masks of the release, or name the plain weights of the reference"
            )
    tokenizer = load_tokenizer(reference if is_adapter(start) else start)
    if not is_adapter(start):
        return load_model(start, device), tokenizer
    from models.adapters import load_merged

    return load_merged(reference, start, device), tokenizer
