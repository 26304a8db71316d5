"""Forward-mode derivatives along several directions inside one ordinary forward pass, and where they meet δ on the way back.

While `Tangents` is active, every floating-point tensor that depends on a parameter in scope carries one tangent per direction
(the attribute `_tangents`). Each call of a torch function computes its output once, as usual, and its tangents beside it: linear layers
`ẏ = W ẋ + D x`, attention in blocks of queries, everything else by models/rules.py. Tensors stay plain tensors, so model code runs
unchanged. At the language-model head the journey ends: `⟨D, ∇ℓ_u⟩ = δ · ẋ + δ_logits · D x` for every counted token u, with δ from one
backward pass; no tangent of a logit is formed.

How the two meet to make the context axis: models/meeting.py.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from models.attention import attention_tangents
from models.lowrank import Direction
from models.meeting import ContextAxis, Meeting
from models.products import added, both_moved, moved_by, paired, rows, transposed
from models.rules import attach, derive, float_tensors, is_in_place, is_parameter_like, moved_of, out_of_place, tangents_of

_MIXING = {"bmm", "matmul", "__matmul__", "baddbmm", "einsum", "conv1d", "conv2d", "cumsum", "cumprod", "roll", "flip"}
"""Functions that may carry one position's activations to another; allowed outside attention only on one activation and constants."""


class Tangents(TorchFunctionMode):
    """The mode; see the module docstring.

    Attributes:
        predictors: (rows, positions) of the predictors of the counted tokens.
        context: the context axis, complete once the backward pass of Σ w_v ℓ_v has run.
        target_KN: [K, N]: w_u ⟨D, ∇ℓ_u⟩ of the counted tokens, complete at the same time.
        head_input_norms_N: [N]: Euclidean norm of the head's input at each predictor.
    """

    def __init__(
        self, num_directions: int, output_weight: Tensor, rows_N: Tensor, positions_N: Tensor, batch_shape: torch.Size,
        *, forward: bool = True, meeting: Meeting = Meeting.BOUNDARY,
    ) -> None:  # fmt: skip
        """Prepare one pass.

        Args:
            num_directions: K.
            output_weight: weight of the language-model head; it is applied to the predictors of the counted tokens only, so the
                model's logits are [1, N, V].
            rows_N: row of each counted token.
            positions_N: position u of each counted token; its predictor stands at u - 1.
            batch_shape: (B, T).
            forward: whether tangents travel; without, there is no target axis.
            meeting: how the context axis is read.
        """
        super().__init__()
        assert forward or meeting is not Meeting.BOUNDARY, "the boundaries of attention need tangents"
        self._num = num_directions
        self._forward = forward
        self._output_weight = output_weight
        self.predictors = (rows_N, positions_N - 1)
        self._wide = torch.float64 if output_weight.dtype == torch.float64 else torch.float32
        self.context = ContextAxis(meeting, torch.zeros(num_directions, *batch_shape, dtype=self._wide, device=output_weight.device))
        self.target_KN = torch.zeros(num_directions, len(rows_N), dtype=self._wide, device=output_weight.device)
        self.head_input_norms_N = torch.zeros(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._num and not torch.is_grad_enabled():
            return func(*args, **kwargs)  # what a model computes without gradients is a constant
        if func is functional.linear:
            return self._linear(*_in_order(("input", "weight", "bias"), args, kwargs))
        if func is functional.embedding:
            return self._embedding(func, args, kwargs)
        if not self._num:
            return func(*args, **kwargs)
        tracked = [t for t in _tensors(args, kwargs) if tangents_of(t) is not None]
        if not tracked:
            return func(*args, **kwargs)
        if func is torch.addmm and len(args) == 3 and not kwargs:
            return self._linear(args[1], transposed(args[2]), args[0])
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return self._any(func, args, kwargs, tracked)

    # ------------------------------------------------------------------------------------------------------------------ rules

    def _any(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]) -> Any:
        """Apply a rule of models/rules.py; with OWN, a parameter that meets an activation here contributes to the context axis."""
        name = getattr(func, "__name__", str(func))
        self._refuse_mixing(name, args, kwargs)
        if kwargs.get("inplace"):  # torch.nn.functional's way of saying it
            attach(args[0], tangents_of(self._any(func, args, {**kwargs, "inplace": False}, tracked)) or (None,) * self._num)
            return func(*args, **kwargs)
        before = None
        if is_in_place(name):  # while the arguments still hold their values
            if isinstance(args[0], Tensor) and getattr(args[0]._base, "_is_alias", False):
                raise NotImplementedError(
                    f"the model changes a part of an activation in place with {name!r}, which has no tangent rule here; it is not supported"
                )
            before = self._derive(out_of_place(name), args, kwargs, tracked)
        if before is None:
            raw = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
            output = tree_map(lambda one: one if isinstance(one, Tensor) and one._is_view() else _bare(one), raw)  # a view keeps nothing
        else:
            output = func(*args, **kwargs)
        outputs = float_tensors(output)
        if any(o.is_complex() for o in tree_leaves(output) if isinstance(o, Tensor)):
            raise NotImplementedError(
                f"the model computes with complex numbers ({name!r}), which have no tangent rule here; it is not supported"
            )
        if before is None and not outputs:
            return output
        tangents, own = before or self._derive(func, args, kwargs, tracked)
        if tangents is not None:
            for index, one in enumerate(outputs):
                attach(one, tuple(None if t is None else t[index] for t in tangents))
        if own is not None:
            self.context.collect(name, outputs[0], [None if t is None else t[0] for t in own])
        return output

    def _derive(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]) -> tuple[Any, Any]:
        """Differentiate: (all tangents of the outputs, those of the parameters alone where one meets an activation and OWN asks)."""
        meets = any(is_parameter_like(t) for t in tracked) and any(t.requires_grad for t in _tensors(args, kwargs))
        own = derive(func, args, kwargs, self._num, parameters_only=True) if meets and self.context.meeting is Meeting.OWN else None
        if self._forward or not meets:
            return derive(func, args, kwargs, self._num), own
        return None, own  # the tangents of activations are not followed

    def _refuse_mixing(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.context.meeting is not Meeting.BOUNDARY or name not in _MIXING:
            return
        moved = [t for t in _tensors(args, kwargs) if t.requires_grad]
        if len(moved) > 1 or (moved and name in {"conv1d", "conv2d", "cumsum", "cumprod", "roll", "flip"}):
            raise NotImplementedError(
                f"the model moves information between positions by {name!r}, outside scaled_dot_product_attention; load it with "
                'attn_implementation="eager", or leave the parameters before it out of scope with scoring.scope_exclude'
            )

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight is self._output_weight:
            return self._head(x, weight, bias)
        output = functional.linear(x, weight, bias)
        of_x, of_weight, of_bias = moved_of(x), tangents_of(weight), tangents_of(bias)
        if not self._num or (of_x is None and of_weight is None and of_bias is None):
            return output
        if self.context.meeting is Meeting.OWN and not self._forward:
            self.context.collect_lazily(output, x, of_weight, of_bias)
            return output
        own: list[Tensor | None] = []
        total: list[Tensor | None] = []
        with torch.no_grad():
            for k in range(self._num):
                x_k, weight_k = None if of_x is None else of_x[k], None if of_weight is None else of_weight[k]
                bias_k = None if of_bias is None else of_bias[k]
                if self.context.meeting is Meeting.OWN:
                    own.append(moved_by(x, weight_k, bias_k, output))
                    total.append(added(None if x_k is None else functional.linear(x_k, weight), own[-1]))
                else:
                    total.append(both_moved(x, x_k, weight, weight_k, bias_k, output))
        attach(output, tuple(total))
        if self.context.meeting is Meeting.OWN:
            self.context.collect("linear", output, own)
        return output

    def _head(self, x_BTI: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the head to the predictors, and pair there what the tangents brought with δ: the target axis."""
        of_x, of_weight, of_bias = moved_of(x_BTI), tangents_of(weight), tangents_of(bias)
        x_NI = x_BTI[self.predictors]
        with torch.no_grad():
            moved = [None if of_x is None or (t := of_x[k]) is None else t[self.predictors] for k in range(self._num)]
            self.head_input_norms_N = x_NI.detach().to(self._wide).norm(dim=-1)
        if self._num and not x_NI.requires_grad:
            x_NI.requires_grad_(True)  # the target axis alone: the graph begins here
        output = functional.linear(x_NI[None], weight, bias)
        if not self._num:
            return output
        inputs_NI = x_NI.detach()

        def meet_inputs(delta_NI: Tensor) -> None:
            for k, t in enumerate(moved):
                if t is not None:
                    self.target_KN[k] += (delta_NI * t).sum(-1, dtype=self._wide)

        def meet_outputs(delta_1NV: Tensor) -> None:
            for k in range(self._num):
                own_N = paired(
                    delta_1NV[0],
                    inputs_NI,
                    None if of_weight is None else of_weight[k],
                    None if of_bias is None else of_bias[k],
                    self._wide,
                )
                self.target_KN[k] += own_N
                if self.context.meeting is Meeting.OWN:
                    self.context.values_KBT[k][self.predictors] += own_N

        x_NI.register_hook(meet_inputs)  # type: ignore[no-untyped-call]
        output.register_hook(meet_outputs)  # type: ignore[no-untyped-call]
        return output

    def _embedding(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Look up; the graph of activations starts here, as parameters are frozen."""
        output: Tensor = func(*args, **kwargs)
        if not self._num:
            return output
        if self.context.meeting is not Meeting.NOWHERE and not output.requires_grad:
            output.requires_grad_(True)
        ids, weight = _in_order(("input", "weight"), args[:2], kwargs)
        tangents = tangents_of(weight)
        if tangents is not None:
            padding = args[2] if len(args) > 2 else kwargs.get("padding_idx")
            with torch.no_grad():
                own = [None if t is None else rows(t, ids, padding) for t in tangents]
            if self._forward:
                attach(output, tuple(own))
            if self.context.meeting is Meeting.OWN:
                self.context.collect("embedding", output, own)
        return output

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if attn_mask is not None and tangents_of(attn_mask) is not None:
            raise NotImplementedError(
                "the model's attention mask depends on parameters in scope, which has no tangent rule here; load it with "
                'attn_implementation="eager", or leave those parameters out of scope with scoring.scope_exclude'
            )
        inputs = [query, key, value]
        tangents = [moved_of(t) or (None,) * self._num for t in inputs]
        if self.context.meeting is Meeting.BOUNDARY:  # so that δ is that of this use alone
            inputs = [_bare(t) for t in inputs]
        output: Tensor = functional.scaled_dot_product_attention(
            inputs[0], inputs[1], inputs[2], attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        with torch.no_grad():
            per_direction = [(_or_zero(q, query), _or_zero(k, key), _or_zero(v, value)) for q, k, v in zip(*tangents, strict=True)]
            factor = query.shape[-1] ** -0.5 if scale is None else scale
            moved_output = attention_tangents(query, key, value, output.detach(), per_direction, attn_mask, is_causal, factor)
        output = _bare(output)  # attention keeps its output for the way back
        attach(output, moved_output)
        if self.context.meeting is Meeting.BOUNDARY:
            for one, moved in zip(inputs, tangents, strict=True):
                self.context.pair(one, moved, 1.0)
            self.context.pair(output, moved_output, -1.0)
        return output


@contextmanager
def carried_by(model: nn.Module, directions: Sequence[Direction]) -> Generator[None]:
    """Attach directions to a model's parameters for the time of the block."""
    parameters = dict(model.named_parameters())
    in_scope = {name for direction in directions for name in direction}
    try:
        for name in in_scope:
            attach(parameters[name], tuple(direction.get(name) for direction in directions))
        yield
    finally:
        for name in in_scope:
            del parameters[name]._tangents  # type: ignore[attr-defined]


def _bare(value: Any) -> Any:
    """Alias an activation, so that what autograd keeps of it for the way back does not keep its tangents, too.

    An attribute lives as long as its tensor. Without this the peak of a pass was 1.96 training steps', with it 1.46 (docs/benchmarks.md).

    Returns:
        the alias; anything else as it is.
    """
    if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
        alias: Any = torch.ops.aten._unsafe_view(value, value.shape)
        alias._is_alias = True
        return alias
    return value


def _in_order(names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Put the arguments of a call into the order of its signature."""
    return [*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs)]


def _or_zero(tangent: Tensor | None, primal: Tensor) -> Tensor:
    return torch.zeros_like(primal) if tangent is None else tangent


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments, those inside lists included (torch.cat)."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found.extend(v for v in value if isinstance(v, Tensor))
    return found
