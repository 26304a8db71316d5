"""Tangents of single torch functions: rules for the common ones that share work, torch's own forward mode for all others.

Forward mode of torch computes a function anew for every direction. Functions that are linear in their one tracked argument need
their tangents passed through the function alone; pointwise ones need their slope once for all directions.
"""

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map

from models.lowrank import LowRank

Tangent = tuple[Tensor | LowRank | None, ...]
"""One tensor per direction, of the shape of its primal; None stands for zero. Only parameters carry low-rank ones."""

Moved = tuple[Tensor | None, ...]
"""What activations carry: dense tangents."""

Derivatives = list[list[Tensor | None] | None]
"""Per direction the tangents of a function's floating-point outputs; None where all are zero."""

_FORWARD_MODE = RLock()
"""Held in torch's forward mode, whose level belongs to the process: of two threads that enter it, the second is refused as nested."""

_HARMLESS_IN_PLACE = {"requires_grad_", "retain_grad_"}
_LINEAR = frozenset({
    "__getitem__", "__neg__", "bfloat16", "chunk", "clone", "contiguous", "double", "expand", "expand_as", "flatten", "float", "frozen_linear", "half", "index_select",
    "mean", "movedim", "narrow", "neg", "permute", "repeat", "repeat_interleave", "reshape", "select", "split", "squeeze", "sum", "swapaxes", "t",
    "to", "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view",
})  # fmt: skip
_POINTWISE = frozenset({"exp", "gelu", "relu", "rsqrt", "sigmoid", "silu", "softplus", "sqrt", "square", "tanh"})
_POWERS = frozenset({"pow", "__pow__"})
_PRODUCTS = frozenset({"mul", "__mul__", "__rmul__"})
_SUMS = frozenset({"add", "__add__", "__radd__", "sub", "__sub__"})
_QUOTIENTS = frozenset({"div", "__truediv__"})


def tangents_of(value: Any) -> Tangent | None:
    """Return what a value carries; None for whatever is not tracked."""
    return getattr(value, "_tangents", None)


def moved_of(activation: Any) -> Moved | None:
    """Return what an activation carries; None where it is not tracked."""
    return getattr(activation, "_tangents", None)


def attach(tensor: Tensor, tangents: Tangent) -> None:
    """Let a tensor carry tangents."""
    tensor._tangents = tangents  # type: ignore[attr-defined]


def is_parameter_like(tensor: Tensor) -> bool:
    """Whether a tracked tensor is a parameter or made of parameters alone: activations require a gradient, parameters are frozen."""
    return not tensor.requires_grad


def float_tensors(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of a function's output, in order."""
    return [o for o in tree_leaves(output) if isinstance(o, Tensor) and o.is_floating_point()]


def is_in_place(name: str) -> bool:
    """Tell by its name whether a function of tensors writes into its first argument."""
    if name.endswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}") and name != "__invert__")
    return name.endswith("_") and name not in _HARMLESS_IN_PLACE


def out_of_place(name: str) -> Callable[..., Any]:
    """Return the function that computes what an in-place one writes.

    Raises:
        NotImplementedError: there is none.
    """
    twin = f"__{name[3:]}" if name.endswith("__") else name[:-1]
    if name == "__setitem__" or not hasattr(Tensor, twin):
        raise NotImplementedError(
            f"the model changes an activation in place with {name!r}, which has no tangent rule here; "
            "leave the parameters before it out of scope with scoring.scope_exclude"
        )
    return getattr(Tensor, twin)  # type: ignore[no-any-return]


def derive(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], num: int, *, parameters_only: bool = False
) -> Derivatives:
    """Differentiate one call of a function along all directions.

    Args:
        func: the torch function.
        args: its arguments, tracked ones carrying tangents.
        kwargs: its keyword arguments.
        num: number of directions.
        parameters_only: hold the activations fixed.

    Returns:
        tangents of the floating-point outputs.
    """
    view = _View(num, parameters_only)
    with torch.no_grad():
        rule = _rule(getattr(func, "__name__", ""), args, kwargs, view)
        return [_jvp(func, args, kwargs, view, k) for k in range(num)] if rule is None else rule(func, args, kwargs, view)


class _View:
    """Which tangents count in a derivation."""

    def __init__(self, num: int, parameters_only: bool) -> None:
        self.num = num
        self._parameters_only = parameters_only

    def all_of(self, value: Any) -> tuple[Tensor | None, ...] | None:
        """Return the dense tangents of a value; None where it carries none that counts."""
        tangents = tangents_of(value)
        if tangents is None or (self._parameters_only and not is_parameter_like(value)):
            return None
        return tuple(t.dense() if isinstance(t, LowRank) else t for t in tangents)

    def of(self, value: Any, k: int) -> Tensor | None:
        tangents = self.all_of(value)
        return None if tangents is None else tangents[k]


_Rule = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], _View], Derivatives]


def _rule(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> _Rule | None:
    """Choose a rule; None = torch's forward mode."""
    if name in ("cat", "stack") and args and isinstance(args[0], tuple | list):
        return _joined
    if name in _PRODUCTS and not kwargs:
        return _product
    if name in _SUMS and not kwargs:
        return _sum
    only_first = not any(view.all_of(a) is not None for a in (*tree_leaves(args[1:]), *tree_leaves(kwargs)))
    if not args or not only_first or not isinstance(args[0], Tensor):
        return None
    if name in _LINEAR or (name in _QUOTIENTS and not kwargs):  # a rounding mode is no division
        return _linear
    if name in _POINTWISE or (name in _POWERS and isinstance(args[1], int | float) and args[1] == 2):
        return _pointwise
    return None


def _linear(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> Derivatives:
    """Apply a function that is linear in its first argument to the tangents."""
    tangents = view.all_of(args[0]) or (None,) * view.num
    if getattr(func, "__name__", "") == "view":  # a tangent may lie otherwise in memory than its primal
        func = Tensor.reshape
    return [None if t is None else [*float_tensors(func(t, *args[1:], **kwargs))] for t in tangents]


def _pointwise(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> Derivatives:
    """Multiply the tangents by the slope, computed once for all directions."""
    tangents = view.all_of(args[0]) or (None,) * view.num
    slope = _slope(func, args[0].detach(), args[1:], kwargs)
    return [None if t is None or slope is None else [slope * t] for t in tangents]


def _slope(func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Differentiate a pointwise function; the common ones without computing it again. None where torch's forward mode is off."""
    name = getattr(func, "__name__", "")
    if name in _POWERS | {"square"}:
        return x + x
    if name in ("silu", "gelu"):
        one = x.new_ones(()).expand_as(x)
        shape = {key: value for key, value in kwargs.items() if key == "approximate"}
        backward = torch.ops.aten.silu_backward if name == "silu" else torch.ops.aten.gelu_backward
        slope: Tensor = backward(one, x, **shape)
        return slope
    with _FORWARD_MODE, forward_ad.dual_level():
        output = func(forward_ad.make_dual(x, torch.ones_like(x)), *args, **kwargs)  # type: ignore[no-untyped-call]
        return forward_ad.unpack_dual(output).tangent  # type: ignore[no-untyped-call,no-any-return]


def _product(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> Derivatives:
    """Differentiate a product without computing it again; norms, gates and rotations are products."""
    shape = _broadcast(args)
    left, right = view.all_of(args[0]), view.all_of(args[1])
    derivatives: Derivatives = []
    for k in range(view.num):
        total = None
        for tangents, other in ((left, args[1]), (right, args[0])):
            if tangents is not None and (t := tangents[k]) is not None:
                total = t * other if total is None else torch.addcmul(total, t, other)
        derivatives.append(None if total is None else [total.expand(shape)])
    return derivatives


def _sum(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> Derivatives:
    """Add tangents as their primals are added."""
    shape, dtype = _broadcast(args), torch.result_type(args[0], args[1])
    minus = "sub" in getattr(func, "__name__", "")
    derivatives: Derivatives = []
    for k in range(view.num):
        left, right = view.of(args[0], k), view.of(args[1], k)
        if left is not None and right is not None:
            total = left - right if minus else left + right
        elif left is not None:
            total = left
        elif right is not None:
            total = -right if minus else right
        else:
            derivatives.append(None)
            continue
        derivatives.append([total.to(dtype).expand(shape)])
    return derivatives


def _joined(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View) -> Derivatives:
    """Join tangents as their primals are joined, zeros standing in where there is none."""
    derivatives: Derivatives = []
    for k in range(view.num):
        parts = [view.of(part, k) for part in args[0]]
        if all(p is None for p in parts):
            derivatives.append(None)
            continue
        filled = [torch.zeros_like(part) if p is None else p for p, part in zip(parts, args[0], strict=True)]
        derivatives.append([func(filled, *args[1:], **kwargs)])
    return derivatives


def _broadcast(args: Sequence[Any]) -> torch.Size:
    return torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor)))  # type: ignore[no-untyped-call,no-any-return]


def _jvp(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], view: _View, k: int) -> list[Tensor | None]:
    """Return the tangents of a function's outputs along direction k, by torch's forward mode."""

    def dual(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tangent = view.of(value, k)
        return value.detach() if tangent is None else forward_ad.make_dual(value.detach(), tangent)  # type: ignore[no-untyped-call]

    with _FORWARD_MODE, forward_ad.dual_level():
        output = func(*tree_map(dual, args), **tree_map(dual, kwargs))
        return [forward_ad.unpack_dual(o).tangent for o in float_tensors(output)]  # type: ignore[no-untyped-call]
