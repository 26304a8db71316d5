"""The weight matrices of a model's last blocks, and which outputs of them are the values of attention."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.directions import in_scope
from models.lowrank import DirectionTensor, LowRank


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block.

    Attributes:
        name: name of its weight among the model's parameters.
        module: torch's Linear, or the Conv1D of transformers, whose weight is transposed.
        block: index of its block among the last ones.
        values: outputs that are the values of attention; None where none are.
    """

    name: str
    module: nn.Module
    block: int
    values: slice | Tensor | None

    @property
    def transposed(self) -> bool:
        """Whether the weight is [inputs, outputs]."""
        return type(self.module) is not nn.Linear

    def apply(self, weight: DirectionTensor, inputs: Tensor) -> Tensor:
        """Multiply inputs with a weight-shaped tensor or its low-rank form, as the layer does with its weight; no bias."""
        weight_OI = weight.mT if self.transposed else weight
        if isinstance(weight_OI, LowRank):
            return inputs @ weight_OI.right_IR @ weight_OI.left_OR.mT
        return functional.linear(inputs, weight_OI)

    def outer(self, outputs_NO: Tensor, inputs_NI: Tensor) -> Tensor:
        """Sum the outer products of outputs and inputs: a weight-shaped tensor."""
        return inputs_NI.mT @ outputs_NO if self.transposed else outputs_NO.mT @ inputs_NI


@dataclass(frozen=True)
class LastBlocks:
    """The last blocks of a model.

    Attributes:
        first: the first of them: gradients need not go further back.
        attentions: the attention module of each.
        layers: their linear layers.
    """

    first: nn.Module
    attentions: list[nn.Module]
    layers: list[Layer]

    @property
    def names(self) -> list[str]:
        """Names of the layers' weights."""
        return [layer.name for layer in self.layers]

    def within(self, names: Iterable[str]) -> "LastBlocks":
        """Keep the layers of a scope."""
        kept = set(names)
        return replace(self, layers=[layer for layer in self.layers if layer.name in kept])


def last_blocks(model: nn.Module, number: int) -> LastBlocks:
    """Find the linear layers of the last blocks; embeddings and the language-model head are in none.

    Args:
        model: a causal language model of transformers.
        number: how many blocks.

    Returns:
        the blocks.

    Raises:
        ValueError: the model has fewer blocks, its blocks cannot be told, or a block's value projection is fused in an unknown way.
    """
    blocks = _blocks(model)
    check_number(number, len(blocks))
    names = {id(p): name for name, p in model.named_parameters()}
    layers: list[Layer] = []
    attentions: list[nn.Module] = []
    for index, block in enumerate(blocks[-number:]):
        owners = [_values_of(model, path, module, block) for path, module in _linear(block)]
        found = [owner for owner in owners if owner is not None]
        if len(found) != 1:
            raise ValueError(
                f"value_propagation: a block of {_family(model)} has {len(found)} value projections that are known here (linear layers named "
                f"v_proj, or fused as in {', '.join(sorted(_FUSED.values()))}), expected 1; it has {[path for path, _ in _linear(block)]}. "
                "Set scoring.estimator to 'exact'"
            )
        attentions.append(found[0][0])
        for (_, module), owner in zip(_linear(block), owners, strict=True):
            layers.append(Layer(names[id(module.weight)], module, index, None if owner is None else owner[1]))
    return LastBlocks(blocks[-number], attentions, layers)


def check_number(number: int, available: int) -> None:
    """Refuse more blocks than there are.

    Raises:
        ValueError: there are fewer.
    """
    if number > available:
        raise ValueError(
            f"scoring.propagation.last_blocks is {number}, but the model has {available} blocks; set it to {available} or less"
        )


def block_scope(model: nn.Module, number: int, exclude: Sequence[str]) -> list[str]:
    """List the parameters that directions of `value_propagation` cover: the linear layers' weights of the last blocks.

    Args:
        model: the model.
        number: how many blocks.
        exclude: patterns of `scoring.scope_exclude`; they may name any parameter of the model.

    Returns:
        names in the order of the layers.

    Raises:
        ValueError: a matrix of the blocks belongs to no linear layer and is not excluded, or a value projection is excluded.
    """
    blocks = last_blocks(model, number)
    parameters = dict(model.named_parameters())
    kept = set(in_scope(list(parameters), exclude))
    inside = {id(p) for block in _blocks(model)[-number:] for p in block.parameters()}
    odd = [n for n, p in parameters.items() if id(p) in inside and p.dim() > 1 and n not in blocks.names and n in kept]
    if odd:
        raise ValueError(
            f"value_propagation: {odd[0]} of {_family(model)} is a weight, but of no torch.nn.Linear (fused experts, quantised or adapted "
            "layers), so its tokens would lack a part of their value; set scoring.estimator to 'exact', or leave it out with scoring.scope_exclude"
        )
    for layer in blocks.layers:
        if layer.values is not None and layer.name not in kept:
            raise ValueError(
                f"scoring.scope_exclude leaves out {layer.name}, the value projection that causal values of value_propagation go through; keep it"
            )
    return [name for name in blocks.names if name in kept]


def _blocks(model: nn.Module) -> list[nn.Module]:
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    for module in model.modules():  # outer ones first
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return list(module)
    raise ValueError(
        f"value_propagation: {_family(model)} has no list of its {config.num_hidden_layers} blocks; set scoring.estimator to 'exact'"
    )


def _linear(block: nn.Module) -> list[tuple[str, Any]]:
    from transformers.pytorch_utils import Conv1D

    return [(path, module) for path, module in block.named_modules() if type(module) in {nn.Linear, Conv1D}]


_FUSED = {"c_attn": "gpt2", "query_key_value": "gpt_neox", "qkv_proj": "phi3"}
"""Projections that hold queries, keys and values, and the family whose layout is known."""


def _values_of(model: nn.Module, path: str, module: Any, block: nn.Module) -> tuple[nn.Module, slice | Tensor] | None:
    """Say which outputs of a linear layer are the values of attention.

    Returns:
        (the attention module, the outputs); None for any other layer.

    Raises:
        ValueError: the layer is a fused projection of a family whose layout is not known.
    """
    parent, _, name = path.rpartition(".")
    attention: Any = block.get_submodule(parent)
    if name == "v_proj":
        return attention, slice(None)
    if name not in _FUSED:
        return None
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    if config.model_type != _FUSED[name]:
        raise ValueError(
            f"value_propagation: the layout of {path} in {_family(model)} is not known (a projection of that name is of {_FUSED[name]} only); "
            "set scoring.estimator to 'exact'"
        )
    num_outputs = module.nf if name == "c_attn" else module.out_features
    if name == "query_key_value":  # per head: query, key, value
        per_head_H3O = torch.arange(num_outputs, device=module.weight.device).view(config.num_attention_heads, 3, -1)
        return attention, per_head_H3O[:, 2].flatten()
    num_values = num_outputs // 3 if name == "c_attn" else config.num_key_value_heads * attention.head_dim
    return attention, slice(num_outputs - num_values, num_outputs)


def _family(model: nn.Module) -> str:
    return f"{type(model).__name__} ({getattr(model.config, 'model_type', 'of no known type')})"
