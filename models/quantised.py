"""Frozen linear layers whose weights are stored quantised: one rule, W x + b with W the dequantised weight, for every kind.

The kernels of the packages have no forward-mode rule, some round the activations, too, and a custom autograd function hides its
derivative from models/tangents.py. Here such a layer becomes what it stands for, a linear map of its input: the same function in
the forward pass, for δ on the way back, and for tangents. The weight is dequantised where it is used and dropped again: at any
time there is one layer's, never the model's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

_Context = Any
"""What autograd hands to a custom function."""


def frozen_linear(x: Tensor, layer: nn.Module) -> Tensor:
    """Apply the weight of a frozen quantised layer: x Wᵀ, W dequantised to the dtype of x; the bias is the caller's.

    Modes see it as one torch function, linear in x: ẏ = ẋ Wᵀ, and δ W on the way back.

    Args:
        x: [..., I], floating point.
        layer: a layer that `dequantised_weight` knows.

    Returns:
        [..., O], dtype of x.

    Source: derivative of a linear map; reference test: tests/models/test_quantised.py::test_values_over_a_quantised_base_equal_the_slow_loop
    """
    if has_torch_function_unary(x):
        applied: Tensor = handle_torch_function(frozen_linear, (x,), x, layer)
    else:
        applied = _FrozenLinear.apply(x, layer)  # type: ignore[no-untyped-call]
    return applied


class _FrozenLinear(torch.autograd.Function):
    """The map and its two derivatives; nothing is saved for the way back but the layer itself."""

    @staticmethod
    def forward(x: Tensor, layer: nn.Module) -> Tensor:
        return functional.linear(x, dequantised_weight(layer, x.dtype))

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, nn.Module], output: Tensor) -> None:
        ctx.layer = inputs[1]

    @staticmethod
    def backward(ctx: _Context, delta: Tensor) -> tuple[Tensor, None]:
        return delta @ dequantised_weight(ctx.layer, delta.dtype), None

    @staticmethod
    def jvp(ctx: _Context, x_tangent: Tensor, _: None) -> Tensor:
        return functional.linear(x_tangent, dequantised_weight(ctx.layer, x_tangent.dtype))


class FrozenLinear(nn.Module):
    """A quantised layer that is applied by `frozen_linear` instead of its own kernel."""

    def __init__(self, quantised: nn.Module) -> None:
        """Wrap a layer; it stays as it is."""
        super().__init__()
        self.quantised = quantised
        weight = dequantised_weight(quantised, torch.float32)
        self.out_features, self.in_features = weight.shape
        bias: Tensor | None = quantised.bias  # type: ignore[assignment]
        self.num_parameters = weight.numel() + (0 if bias is None else bias.numel())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., I] to [..., O]."""
        output = frozen_linear(x, self.quantised)
        bias: Tensor | None = self.quantised.bias  # type: ignore[assignment]
        return output if bias is None else output + bias.to(output.dtype)


def dequantised_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """Compute the weight that a quantised layer stands for.

    Returns:
        [O, I], a new tensor outside any graph.

    Raises:
        ValueError: the layer is of no kind that is known here.
    """
    rule = _rule(layer)
    if rule is None:
        raise ValueError(
            f"{type(layer).__name__} is no quantised linear layer that is known here: bitsandbytes, torchao, or a dequantize()"
        )
    with torch.no_grad():
        return rule(layer).detach().to(dtype)


def _rule(layer: nn.Module) -> Callable[[Any], Tensor] | None:
    """Find how a layer's weight is dequantised: by the class of the weight, so that no package is imported that is not in use."""
    weight = layer._parameters.get("weight")  # its own: adapters show the weight below them as theirs
    kind = type(weight)
    if kind.__name__ == "Params4bit":
        return _bitsandbytes_4bit
    if kind.__name__ == "Int8Params":
        return _bitsandbytes_8bit
    if kind.__module__.startswith("torchao.") and isinstance(layer, nn.Linear):
        return lambda one: one.weight.dequantize()
    if weight is None and "base_layer" not in layer._modules and callable(getattr(layer, "dequantize", None)) and hasattr(layer, "bias"):
        return lambda one: one.dequantize()
    return None


def _bitsandbytes_4bit(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = layer.weight.quant_state
    if state is None or getattr(state, "packing_format_for_cpu", False):
        raise ValueError(
            "a 4-bit layer of bitsandbytes is not quantised yet, or repacked by a pass through its own kernel; load the model anew"
        )
    if layer.weight.device.type == "cpu" and state.shape[-1] % state.blocksize:
        raise ValueError(
            f"a 4-bit layer of bitsandbytes has rows of {state.shape[-1]} in blocks of {state.blocksize}; on the CPU that package "
            "gives wrong weights where a row is not whole blocks (0.50.2: off by up to the largest weight). Use a GPU or another form"
        )
    return dequantize_4bit(layer.weight.data, state)  # type: ignore[no-any-return]


def _bitsandbytes_8bit(layer: Any) -> Tensor:
    scale_O = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return layer.weight.data.float() * (scale_O.float() / 127.0)[:, None]  # type: ignore[no-any-return]


def replace_quantised(model: nn.Module) -> int:
    """Replace every quantised linear layer of a model, in place, by a `FrozenLinear`.

    Args:
        model: the model; adapters, if any, are on it already.

    Returns:
        number of layers replaced.

    Raises:
        ValueError: some weight is quantised in a way that is not known here.
    """
    num_replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(parent, FrozenLinear) and _rule(child) is not None:
                setattr(parent, name, FrozenLinear(child))
                num_replaced += 1
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if ".quantised." not in f".{name}" and tensor.dim() > 1 and tensor.dtype != torch.bool and tensor.element_size() == 1:
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} holds {tensor.dtype}, a quantised weight without a rule here; known are the linear "
                "layers of bitsandbytes and torchao, and modules with dequantize(). Give the model in another form"
            )
    return num_replaced


def num_parameters(model: nn.Module) -> int:
    """Count a model's parameters, those of quantised layers as they were before quantisation."""
    quantised = [module for module in model.modules() if isinstance(module, FrozenLinear)]
    packed = {id(p) for module in quantised for p in module.parameters()}
    return sum(m.num_parameters for m in quantised) + sum(p.numel() for p in model.parameters() if id(p) not in packed)
