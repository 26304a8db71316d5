"""Where tangents and δ meet to make the context axis.

The context axis is read in one of two ways:

* `Meeting.BOUNDARY`: of a function that acts position by position, `δ_y · ẏ − δ_x · ẋ` at position p is just what its parameters
  contribute there. Summed over all functions between two attentions everything inside cancels, so the pairings δ · ẋ at the inputs and
  outputs of attention, and at the head, give the whole context axis: Σ over attentions of (q, k, v inputs − output), plus the head. Any
  function between is allowed, fused experts included, as long as attention alone moves information between positions.
* `Meeting.OWN`: at each use of a parameter its own contribution `δ_y · D x` is collected. Needs no tangents, so the context axis alone
  costs no forward-mode pass; works with any kind of attention; but the use must show which position it belongs to.
"""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor

from models.products import paired, per_position
from models.rules import Moved, Tangent


class Meeting(Enum):
    """Where tangents and δ meet to make the context axis; see the module docstring."""

    NOWHERE = "nowhere"
    BOUNDARY = "boundary"
    OWN = "own"


class ContextAxis:
    """Sums of what the losses of later tokens draw from every position, filled by hooks while δ travels back.

    Attributes:
        meeting: how the axis is read.
        values_KBT: [K, B, T]: Σ_{v>p} w_v J[v, p].
        segment_start: position of an attention call's first query: packed rows call it once per sequence.
    """

    def __init__(self, meeting: Meeting, zeros_KBT: Tensor) -> None:
        """Start from zeros, whose dtype is that of the sums."""
        self.meeting = meeting
        self.values_KBT = zeros_KBT
        self.segment_start = 0

    def pair(self, tensor_BHTd: Tensor, tangents: Moved, sign: float) -> None:
        """Add ± δ · ẋ of a tensor at the boundary of attention, position by position, when δ arrives."""
        kept = list(tangents)
        span = slice(self.segment_start, self.segment_start + tensor_BHTd.shape[2])

        def meet_delta(delta_BHTd: Tensor) -> None:
            delta_BHTd = delta_BHTd.to(self.values_KBT.dtype)
            for k, t in enumerate(kept):
                if t is not None:
                    self.values_KBT[k, :, span].add_((delta_BHTd * t).sum((1, 3)), alpha=sign)
            kept.clear()  # the graph outlives its use here

        if tensor_BHTd.requires_grad and any(t is not None for t in kept):
            tensor_BHTd.register_hook(meet_delta)  # type: ignore[no-untyped-call]

    def collect(self, name: str, output: Tensor, own: Sequence[Tensor | None]) -> None:
        """Let `own`, the change of the output with the parameters applied here, meet δ of the output in the backward pass."""
        kept = list(own)
        if not output.requires_grad or all(t is None for t in kept):
            return

        def meet_delta(delta: Tensor) -> None:
            for k, own_k in enumerate(kept):
                if own_k is not None:
                    self.values_KBT[k] += per_position(name, delta * own_k, self.values_KBT[k])
            kept.clear()

        output.register_hook(meet_delta)  # type: ignore[no-untyped-call]

    def collect_lazily(self, output: Tensor, x: Tensor, of_weight: Tangent | None, of_bias: Tangent | None) -> None:
        """As `collect`, with D x formed only when δ arrives: layers of one input then keep that input alone."""
        if not output.requires_grad or (of_weight is None and of_bias is None):
            return
        inputs = [x.detach()]

        def meet_delta(delta: Tensor) -> None:
            kept, dtype = inputs.pop(), self.values_KBT.dtype  # the graph outlives its use here
            for k, values_BT in enumerate(self.values_KBT):
                own = paired(delta, kept, None if of_weight is None else of_weight[k], None if of_bias is None else of_bias[k], dtype)
                values_BT += per_position("linear", own[..., None], values_BT)

        output.register_hook(meet_delta)  # type: ignore[no-untyped-call]

    def add_head(self, predictors: tuple[Tensor, Tensor], target_KN: Tensor) -> None:
        """Complete the axis of BOUNDARY after the backward pass: the head's part stands at the predictors."""
        if self.meeting is Meeting.BOUNDARY:
            self.values_KBT[:, *predictors] += target_KN
