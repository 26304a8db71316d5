"""One forward pass, and one backward pass to the activations of the last blocks: where δ meets the inputs of their linear layers."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.attention_band import attention_band, band_of
from models.batches import TokenBatch
from models.blocks import LastBlocks, Layer
from models.losses import counted, model_inputs, token_losses

Meet = Callable[[Layer, Tensor, Tensor], None]
"""Called in the backward pass with (layer, its input h, δ at its output), both [B, T, ·]."""


def response_pass(
    model: nn.Module,
    batch: TokenBatch,
    blocks: LastBlocks,
    meet: Meet | None,
    bands: dict[int, Tensor] | None = None,
    window: int = 0,
) -> Tensor:
    """Run forward, and backward from the summed response loss to the first of the last blocks.

    Args:
        model: frozen, in eval mode.
        batch: on the model's device.
        blocks: the last blocks.
        meet: called for each of their layers, last layer first; without it there is no backward pass.
        bands: filled with the band of attention weights of each block.
        window: width of the bands.

    Returns:
        log_probs_NV: log-probabilities that predict the counted tokens, in the order of `counted`; float32 at least.

    Raises:
        ValueError: the model is not frozen, a layer was not met once, or no attention weights are to be had.
    """
    if any(p.requires_grad for p in model.parameters()):
        raise ValueError("value_propagation: the model has parameters with requires_grad; call model.requires_grad_(False).eval() first")
    rows_N, positions_N = counted(batch)
    mode = _ForwardMode(model, (rows_N, positions_N - 1))
    met: list[str] = []
    with torch.set_grad_enabled(meet is not None), ExitStack() as hooks, mode:
        if meet is not None:
            hooks.enter_context(_observed(blocks, batch.weights_BT.shape, _noting(met, meet)))
            if bands is not None:
                kernel = getattr(model.config, "_attn_implementation", "unknown")
                hooks.enter_context(_attention_of(kernel, blocks, mode, bands, window))
        logits_NV = model(**model_inputs(batch)).logits[0]
        log_probs_NV = functional.log_softmax(logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float(), dim=-1)
    if meet is not None and len(rows_N):
        losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N])
        (losses_N * batch.weights_BT[rows_N, positions_N]).sum().backward()  # type: ignore[no-untyped-call]
        if sorted(met) != sorted(blocks.names):
            odd = next(name for name in blocks.names if met.count(name) != 1)
            raise ValueError(
                f"value_propagation: {odd} took part {met.count(odd)} times in one pass, expected once; set scoring.estimator to 'exact'"
            )
    return log_probs_NV.detach()


def _noting(met: list[str], meet: Meet) -> Meet:
    def noted(layer: Layer, inputs: Tensor, delta: Tensor) -> None:
        met.append(layer.name)
        meet(layer, inputs, delta)

    return noted


class _ForwardMode(TorchFunctionMode):
    """Cuts the head's input to the predictors of counted tokens, and sees the queries and keys of `scaled_dot_product_attention`.

    Attributes:
        on_attention: called with (query, key, mask, is_causal, scale) while it is set.
    """

    def __init__(self, model: nn.Module, predictors: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        head = model.get_output_embeddings()  # type: ignore[operator]
        if type(head) is not nn.Linear:
            raise ValueError(f"value_propagation: the language-model head is {type(head).__name__}, expected torch.nn.Linear")
        self._head_weight = head.weight
        self._predictors = predictors
        self.on_attention: Callable[[Tensor, Tensor, Tensor | None, bool, float], None] | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and len(args) > 1 and args[1] is self._head_weight:
            return functional.linear(args[0][self._predictors][None], *args[1:], **kwargs)
        if func is functional.scaled_dot_product_attention and self.on_attention is not None:
            self._tell(*args, **kwargs)
        return func(*args, **kwargs)

    def _tell(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        assert self.on_attention is not None, "asked for by the caller"
        self.on_attention(query.detach(), key.detach(), attn_mask, is_causal, query.shape[-1] ** -0.5 if scale is None else scale)


@contextmanager
def _observed(blocks: LastBlocks, shape: torch.Size, meet: Meet) -> Generator[None]:
    """Begin the graph of activations at the first of the blocks, and let δ meet the input of each of their layers."""

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0].detach().requires_grad_(True), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_(True)}

    def watch(layer: Layer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            inputs = args[0].detach()
            if inputs.shape[:-1].numel() != shape.numel():
                raise ValueError(
                    f"value_propagation: {layer.name} got inputs of shape {list(inputs.shape)} for a batch of {list(shape)}: it does not act "
                    "on every position; set scoring.estimator to 'exact'"
                )

            def on_delta(delta: Tensor) -> None:
                with torch.no_grad():
                    meet(layer, inputs.view(*shape, -1), delta.view(*shape, -1))

            output.register_hook(on_delta)  # type: ignore[no-untyped-call]

        return hook

    handles = [blocks.first.register_forward_pre_hook(begin, with_kwargs=True)]
    handles += [layer.module.register_forward_hook(watch(layer)) for layer in blocks.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attention_of(kernel: str, blocks: LastBlocks, mode: _ForwardMode, bands: dict[int, Tensor], window: int) -> Generator[None]:
    """Fill `bands` while the attention modules run: from the weights they return, else from what their kernel gets."""

    def listen(block: int, module: nn.Module, args: Any) -> None:
        def from_kernel(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> None:
            with torch.no_grad():
                bands[block] = attention_band(query, key, mask, is_causal, scale, window)

        mode.on_attention = from_kernel

    def conclude(block: int, module: nn.Module, args: Any, output: Any) -> None:
        mode.on_attention = None
        weights = next((o for o in output[1:] if isinstance(o, Tensor) and o.dim() == 4), None) if isinstance(output, tuple) else None
        if weights is not None:
            bands[block] = band_of(weights.detach().mean(1, dtype=torch.promote_types(weights.dtype, torch.float32)), window)
        if block not in bands:
            raise ValueError(
                f"value_propagation: the attention kernel {kernel!r} gives neither its weights nor its queries and keys; "
                "load the model with attn_implementation 'sdpa' or 'eager'"
            )

    handles = []
    for block, attention in enumerate(blocks.attentions):
        handles.append(attention.register_forward_pre_hook(partial(listen, block)))
        handles.append(attention.register_forward_hook(partial(conclude, block)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
