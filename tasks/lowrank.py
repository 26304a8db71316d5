"""Low-rank forms of pinned directions: artefacts of their own, compared with the dense ones on a sample before they may be used."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.settings import CODE_VERSIONS, LowRankSettings
from warehouse.digests import digest

if TYPE_CHECKING:
    from torch import nn

Sample = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(token ids, response positions) of each sequence."""


def low_rank_key(settings: LowRankSettings, dense_digest: str) -> str:
    """Identify the low-rank form of a direction: the dense one, and how it is factorised (not how it is checked)."""
    return digest("low rank", dense_digest, settings.rank, settings.energy, CODE_VERSIONS["low_rank"])


def make(dense: Path, path: Path, settings: LowRankSettings, load: Callable[[], "nn.Module"], sample: Sample) -> tuple[str, dict[str, Any]]:
    """Factorise a direction, compare the values along both on a sample, and save the factors with the outcome.

    Args:
        dense: file of the direction.
        path: where to save.
        settings: rank, energy, sample.
        load: loads the scoring model in float32.
        sample: sequences of the training snapshot.

    Returns:
        (content digest, details: Spearman and agreement of the upper half by axis, share of the squared norm kept).

    Raises:
        ValueError: the order of the values is not kept well enough.
    """
    from models.directions import content_digest, load_tensors, save_tensors
    from models.lowrank import factorise, flatten
    from models.probe import total_norm
    from models.selftest import low_rank_against_dense

    direction = load_tensors(dense)
    factors = factorise(direction, settings.rank, settings.energy)
    details: dict[str, Any] = {"rank": settings.rank, "energy": settings.energy, "num_sequences": len(sample)}
    norm = total_norm(direction.values())
    details["kept_energy"] = total_norm(factors.values()) ** 2 / norm**2 if norm else 1.0
    if norm:
        checks = low_rank_against_dense(load(), {"d": direction}, {"d": factors}, sample, settings.min_spearman)
        for check in checks:
            axis, measure = check.name.split(" ")[1], "spearman" if check.measure == "Spearman" else "top_half_agreement"
            details[f"{measure}_{axis}"] = check.value
    check_agreement(details, settings)
    flat = flatten(factors)
    save_tensors(flat, path)
    return content_digest(flat), details


def check_agreement(details: dict[str, Any], settings: LowRankSettings) -> None:
    """Hold a low-rank direction to the agreement that the settings ask for, also one made under other settings.

    Raises:
        ValueError: the order of the values is not kept well enough.
    """
    found = {name: value for name, value in details.items() if name.startswith("spearman")}
    worst = min(found.values(), default=1.0)
    if worst < settings.min_spearman:
        told = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        raise ValueError(
            f"scoring.low_rank: directions of rank {details['rank']} change the order of the values too much ({told} on "
            f"{details['num_sequences']} sequences; min_spearman is {settings.min_spearman}). Raise the rank, lower min_spearman, or set "
            "scoring.low_rank to null"
        )
