"""Ways a model runs for the time of a block: experts one by one, layers with checkpoints."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def plain_experts(model: nn.Module) -> Generator[None]:
    """Run the experts of a mixture one by one: their grouped kernels have no tangents, and none in float64."""
    config: Any = model.config
    own = getattr(config, "_experts_implementation", None)
    if own in (None, "eager"):
        yield
        return
    try:
        model.set_experts_implementation("eager")  # type: ignore[operator]
        yield
    finally:
        model.set_experts_implementation(own)  # type: ignore[operator]


@contextmanager
def checkpointed(model: nn.Module, wanted: bool) -> Generator[None]:
    """Keep the activations between layers alone, and compute those within again on the way back; nothing changes unless wanted.

    Args:
        model: a model in eval mode; dropout stays off.
        wanted: whether to.

    Yields:
        nothing.

    Raises:
        ValueError: the model's layers do not support it.
    """
    if not wanted:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers with activation checkpointing; set scoring.activation_checkpointing to false"
        )
    try:
        _switch(model, "enable", {"use_reentrant": False})
        for layer in layers:
            layer.training = True  # what the wrapper around a layer asks for; the modules inside stay in eval mode
        yield
    finally:
        for layer in layers:
            layer.training = False
        _switch(model, "disable")


def _switch(model: nn.Module, to: str, *settings: dict[str, bool]) -> None:
    """Call the method of transformers under its present name, or under the one before 5.20."""
    present = getattr(model, f"activation_checkpointing_{to}", None) or getattr(model, f"gradient_checkpointing_{to}")
    present(*settings)
