"""Ways a model runs for the time of a block: experts one by one, layers with checkpoints."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


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

    The backward pass must run inside the block, too: a layer that is computed again must find the model as it was.

    Args:
        model: a model in eval mode.
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
        for layer in layers:  # not by the layer's own switch, which asks for training mode and with it for dropout
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer in layers:
            del layer.forward


def attention_alone_mixes(model: nn.Module) -> bool:
    """Tell whether positions meet in `scaled_dot_product_attention` alone, as far as the model's make shows."""
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and kinds <= {"full_attention", "sliding_attention", "chunked_attention", "attention"}
        and not any(isinstance(m, nn.Conv1d) for m in model.modules())
    )
