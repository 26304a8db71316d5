"""Forward-mode derivatives along several directions inside one ordinary forward pass, with δ collected on the way back.

While `Tangents` is active, every floating-point tensor that depends on a parameter in scope carries one tangent per direction
(the attribute `_tangents`). Each call of a torch function computes its output once, as usual, and its tangents beside it:

* linear layers: `ẏ = W ẋ + D x`; the term `D x` (the paper's D h) is kept and meets δ in the backward pass, so it is computed once
  for both axes;
* attention: in blocks of queries, with one block's attention weights shared by all directions, whatever kernel the model uses;
* everything else: torch's own forward-mode rule of that function.

Tensors stay plain tensors, so model code runs unchanged. A function without a forward rule raises; one whose rule loses a derivative shows
in the sums of the two axes, which models/scoring.py compares on every batch.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from models.attention import attention_tangents

Tangent = tuple[Tensor | None, ...]
"""One tensor per direction, of the shape of its primal; None stands for zero."""

_HARMLESS_IN_PLACE = {"requires_grad_", "retain_grad_"}
_PRODUCTS = {"mul", "__mul__", "__rmul__"}


class Tangents(TorchFunctionMode):
    """The mode; see the module docstring.

    Attributes:
        context_KBT: [K, B, T]: Σ_{v>p} w_v J[v, p], complete once the backward pass of Σ w_v ℓ_v has run.
    """

    def __init__(self, num_directions: int, output_weight: Tensor, rows_N: Tensor, positions_N: Tensor, batch_shape: torch.Size) -> None:
        """Prepare one pass.

        Args:
            num_directions: K.
            output_weight: weight of the language-model head; it is applied to the predictors of the counted tokens only, so the
                model's logits are [1, N, V].
            rows_N: row of each counted token.
            positions_N: position u of each counted token; its predictor stands at u - 1.
            batch_shape: (B, T).
        """
        super().__init__()
        self._num = num_directions
        self._output_weight = output_weight
        self._predictors = (rows_N, positions_N - 1)
        wide = torch.float64 if output_weight.dtype == torch.float64 else torch.float32
        self.context_KBT = torch.zeros(num_directions, *batch_shape, dtype=wide, device=output_weight.device)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func is functional.embedding:
            return self._embedding(func, args, kwargs)
        tracked = [t for t in _tensors(args, kwargs) if hasattr(t, "_tangents")]
        if not tracked or not self._num:
            return func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return self._any(func, args, kwargs, tracked)

    # ------------------------------------------------------------------------------------------------------------------ rules

    def _any(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]) -> Any:
        """Apply torch's own forward-mode rule; a parameter that meets an activation here contributes to the context axis."""
        name = getattr(func, "__name__", str(func))
        before = None
        if kwargs.get("inplace"):  # torch.nn.functional's way of saying it
            args[0]._tangents = self._any(func, args, {**kwargs, "inplace": False}, tracked)._tangents
            return func(*args, **kwargs)
        if _is_in_place(name):
            before = self._derive(_out_of_place(name), args, kwargs, tracked)  # while the arguments still hold their values
        output = func(*args, **kwargs)
        outputs = _float_tensors(output)
        if any(o.is_complex() for o in tree_leaves(output) if isinstance(o, Tensor)):
            raise NotImplementedError(
                f"the model computes with complex numbers ({name!r}), which have no tangent rule here; it is not supported"
            )
        if before is None and (not outputs or any(o is t for o in outputs for t in tracked)):
            return output
        tangents, own = before or self._derive(func, args, kwargs, tracked)
        for index, one in enumerate(outputs):
            _attach(one, tuple(t[index] for t in tangents))
        if own is not None:
            self._collect(name, outputs[0], tuple(t[0] for t in own))
        return output

    def _derive(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]
    ) -> tuple[list[list[Tensor | None]], list[list[Tensor | None]] | None]:
        """Differentiate a function: all its outputs, and the share of the parameters alone where one meets an activation.

        Returns:
            (per direction the outputs' tangents, per direction those with the activations held fixed or None).
        """
        rule = _product if getattr(func, "__name__", "") in _PRODUCTS and not kwargs else partial(_jvp, func)
        tangents = [rule(args, kwargs, k) for k in range(self._num)]
        meets_activation = any(t.requires_grad for t in _tensors(args, kwargs))
        if not (meets_activation and any(_is_parameter_like(t) for t in tracked)):
            return tangents, None
        return tangents, [rule(args, kwargs, k, parameters_only=True) for k in range(self._num)]

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        is_head = weight is self._output_weight
        if is_head:
            x = self._select(x)
        output = functional.linear(x, weight, bias)
        x_tangents, weight_tangents = getattr(x, "_tangents", None), getattr(weight, "_tangents", None)
        bias_tangents = getattr(bias, "_tangents", None)
        if not self._num or (x_tangents is None and weight_tangents is None and bias_tangents is None):
            return output
        own: list[Tensor | None] = []
        total: list[Tensor | None] = []
        with torch.no_grad():
            for k in range(self._num):
                own_k = None
                if weight_tangents is not None and weight_tangents[k] is not None:
                    own_k = functional.linear(x, weight_tangents[k], None if bias_tangents is None else bias_tangents[k])
                elif bias_tangents is not None and bias_tangents[k] is not None:
                    own_k = bias_tangents[k].expand_as(output)
                from_x = None if x_tangents is None or x_tangents[k] is None else functional.linear(x_tangents[k], weight)
                own.append(own_k)
                total.append(_add(from_x, own_k))
        _attach(output, tuple(total))
        self._collect("the output head" if is_head else "linear", output, tuple(own), is_head=is_head)
        return output

    def _select(self, x_BTI: Tensor) -> Tensor:
        """Keep the rows of the head's input that predict a counted token: [1, N, I], tangents included."""
        tangents = getattr(x_BTI, "_tangents", None)
        x_1NI = x_BTI[self._predictors][None]
        if tangents is not None:
            _attach(x_1NI, tuple(None if t is None else t[self._predictors][None] for t in tangents))
        return x_1NI

    def _embedding(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Look up; the graph of activations starts here, as parameters are frozen."""
        output: Tensor = func(*args, **kwargs)
        if not self._num:
            return output
        if not output.requires_grad:
            output.requires_grad_(True)
        tangents = getattr(args[1], "_tangents", None)
        if tangents is not None:
            with torch.no_grad():
                own = tuple(None if t is None else functional.embedding(args[0], t) for t in tangents)
            _attach(output, own)
            self._collect("embedding", output, own)
        return output

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        output: Tensor = functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        tangents = [getattr(t, "_tangents", (None,) * self._num) for t in (query, key, value)]
        with torch.no_grad():
            groups = query.shape[1] // key.shape[1]
            key, value = _repeat(key, groups), _repeat(value, groups)
            per_direction = [
                (_or_zero(q, query), _or_zero(_repeat(k, groups), key), _or_zero(_repeat(v, groups), value))
                for q, k, v in zip(*tangents, strict=True)
            ]
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            _attach(output, attention_tangents(query, key, value, per_direction, attn_mask, is_causal, scale))
        return output

    # ------------------------------------------------------------------------------------------------------------ context axis

    def _collect(self, name: str, output: Tensor, own: Tangent, *, is_head: bool = False) -> None:
        """Let `own`, the change of the output with the parameters applied here, meet δ of the output in the backward pass."""
        if not output.requires_grad or all(t is None for t in own):
            return

        def meet_delta(delta: Tensor) -> None:
            for k, own_k in enumerate(own):
                if own_k is None:
                    continue
                total_BT = self.context_KBT[k]
                if is_head:
                    total_BT[self._predictors] += (delta * own_k).sum(-1, dtype=total_BT.dtype)[0]
                else:
                    total_BT += _per_position(name, delta, own_k, total_BT)

        output.register_hook(meet_delta)  # type: ignore[no-untyped-call]


@contextmanager
def carried_by(model: nn.Module, directions: Sequence[Mapping[str, Tensor]]) -> Generator[None]:
    """Attach directions to a model's parameters for the time of the block."""
    parameters = dict(model.named_parameters())
    in_scope = {name for direction in directions for name in direction}
    try:
        for name in in_scope:
            _attach(parameters[name], tuple(direction.get(name) for direction in directions))
        yield
    finally:
        for name in in_scope:
            del parameters[name]._tangents  # type: ignore[attr-defined]


def _attach(tensor: Tensor, tangents: Tangent) -> None:
    tensor._tangents = tangents  # type: ignore[attr-defined]


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments, those inside lists included (torch.cat)."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found.extend(v for v in value if isinstance(v, Tensor))
    return found


def _is_parameter_like(tensor: Tensor) -> bool:
    """Whether a tracked tensor is a parameter or made of parameters alone: activations require a gradient, parameters are frozen."""
    return not tensor.requires_grad


def _is_in_place(name: str) -> bool:
    if name.endswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}") and name != "__invert__")
    return name.endswith("_") and name not in _HARMLESS_IN_PLACE


def _out_of_place(name: str) -> Callable[..., Any]:
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


def _float_tensors(output: Any) -> list[Tensor]:
    return [o for o in tree_leaves(output) if isinstance(o, Tensor) and o.is_floating_point()]


def _jvp(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], k: int, *, parameters_only: bool = False
) -> list[Tensor | None]:
    """Return the tangents of a function's floating-point outputs along direction k, by torch's forward mode."""

    def dual(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tangents = getattr(value, "_tangents", None)
        if tangents is None or tangents[k] is None or (parameters_only and not _is_parameter_like(value)):
            return value.detach()
        return forward_ad.make_dual(value.detach(), tangents[k])  # type: ignore[no-untyped-call]

    with torch.no_grad(), forward_ad.dual_level():
        output = func(*tree_map(dual, args), **tree_map(dual, kwargs))
        return [forward_ad.unpack_dual(o).tangent for o in _float_tensors(output)]  # type: ignore[no-untyped-call]


def _product(args: tuple[Any, ...], kwargs: dict[str, Any], k: int, *, parameters_only: bool = False) -> list[Tensor | None]:
    """Return the tangent of a product without computing the product again; norms, gates and rotations are products."""
    assert not kwargs, "products with keywords go the general way"
    total = None
    with torch.no_grad():
        for own, other in (args, args[::-1]):
            tangents = getattr(own, "_tangents", None)
            if tangents is None or tangents[k] is None or (parameters_only and not _is_parameter_like(own)):
                continue
            total = tangents[k] * other if total is None else torch.addcmul(total, tangents[k], other)
    if total is not None:  # tangents have the shape of the product, also where one factor is broadcast
        shape = torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor)))  # type: ignore[no-untyped-call]
        total = total.expand(shape)
    return [total]


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left.add_(right)


def _or_zero(tangent: Tensor | None, primal: Tensor) -> Tensor:
    return torch.zeros_like(primal) if tangent is None else tangent


def _repeat(heads: Any, groups: int) -> Any:
    """Repeat key or value heads for grouped-query attention."""
    return heads if heads is None or groups == 1 else heads.repeat_interleave(groups, dim=1)


def _per_position(name: str, delta: Tensor, own: Tensor, total_BT: Tensor) -> Tensor:
    """Sum δ · df[D] over everything but batch and position.

    Outputs may be [B, T, O], [B·T, O], [B, T, heads, O] or [B, heads, T, O].

    Returns:
        [B, T].

    Raises:
        ValueError: the function does not act position by position.
    """
    (B, T), shape = total_BT.shape, tuple(delta.shape)
    product = delta * own
    if shape[:2] == (B, T) and not (len(shape) == 4 and shape[2] == T):
        return product.flatten(2).sum(-1, dtype=total_BT.dtype)
    if len(shape) == 2 and shape[0] == B * T:
        return product.sum(-1, dtype=total_BT.dtype).view(B, T)
    if len(shape) == 4 and shape[0] == B and shape[2] == T and shape[1] != T:
        return product.sum((1, 3), dtype=total_BT.dtype)
    raise ValueError(
        f"a parameter applied by {name!r} does not act position by position: its output has shape {list(shape)}, the batch is [{B}, {T}]; "
        "leave that parameter out of scope with scoring.scope_exclude"
    )
