"""Checks of the engine on a user's own model: exact against slow, batched against single, low rank against dense, half against full."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.batches import collate
from models.lowrank import Direction
from models.oracle import slow_values
from models.probe import ProbeResult, ScaledDirections, probe, scale_directions

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(token ids, response positions) of each sequence."""

_SLICE_TOKENS = 16
"""Length of the slice that is valued the slow way: 2 × 16 backward passes."""

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest ‖Δ‖ / ‖values‖ between the engine and the slow way that passes. Measured on the families of tests/reference/families.py: at
most 3e-7 in float64 (their norms cast to float32), 5e-6 in float32 and 0.03 in bfloat16."""


class WrongValuesError(ValueError):
    """The engine's values of this model are not those of the definition."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was compared.
        measure: how.
        value: the measured figure.
        limit: what passes.
        passed: whether it did.
    """

    name: str
    measure: str
    value: float
    limit: float
    passed: bool


def slice_of(token_ids: Sequence[int], response_positions: Sequence[int], length: int = _SLICE_TOKENS) -> tuple[list[int], list[int]]:
    """Cut a window around the first response tokens, itself a sequence.

    Returns:
        (token ids, response positions in it).
    """
    telling = next(u for u in response_positions if u > 0)
    first = max(0, min(telling - length // 2, len(token_ids) - length))
    window = range(first, min(first + length, len(token_ids)))
    return [token_ids[i] for i in window], [u - first for u in response_positions if u in window]


def exact_against_slow(
    model: nn.Module, directions: Mapping[str, Direction], token_ids: Sequence[int], response_positions: Sequence[int]
) -> list[Check]:
    """Compare both axes of a short slice of a sequence with models/oracle.py.

    Args:
        model: frozen, in eval mode.
        directions: name to direction, none zero everywhere.
        token_ids: ids of a sequence.
        response_positions: its response positions, at least one.

    Returns:
        a check per direction and axis.
    """
    ids, positions = slice_of(token_ids, response_positions)
    first = next(model.parameters())
    result = probe(model, collate([ids], [positions]).to(first.device), directions)
    checks = []
    for name, direction in directions.items():
        slow = slow_values(model, ids, positions, direction)
        pairs = {"target": (result.target_BT[name][0], slow.target_T), "context": (result.context_BT[name][0], slow.context_T)}
        for axis, (got_T, expected_T) in pairs.items():
            error, limit = relative_error(got_T, expected_T), TOLERANCES[first.dtype]
            checks.append(Check(f"{name}, {axis} axis: exact against the slow loop", "‖Δ‖ / ‖values‖", error, limit, error <= limit))
    return checks


def verify(model: nn.Module, directions: Mapping[str, Direction], token_ids: Sequence[int], response_positions: Sequence[int]) -> None:
    """Hold the engine to the definition of its values on a slice of a sequence; the first thing a scoring does with a model.

    Args:
        model: frozen, in eval mode.
        directions: name to direction.
        token_ids: ids of a sequence.
        response_positions: its response positions.

    Raises:
        WrongValuesError: a value is off by more than the dtype explains.
    """
    for check in exact_against_slow(model, directions, token_ids, response_positions):
        if not check.passed:
            raise WrongValuesError(
                f"{check.name}: {check.measure} is {check.value:.2g}, expected at most {check.limit:g}. An operation of "
                f"{type(model).__name__} hides its derivative or moves information between positions outside attention, so its values would "
                "be wrong; the model is not supported. Leave the parameters before that operation out of scope with scoring.scope_exclude, "
                'or load it with attn_implementation="eager"; please report its class'
            )


def batched_against_single(model: nn.Module, directions: ScaledDirections, sequences: Sequences) -> list[Check]:
    """Compare the values of sequences in one batch with those of each alone."""
    device = next(model.parameters()).device
    together = probe(model, collate([s[0] for s in sequences], [s[1] for s in sequences]).to(device), directions)
    alone = [probe(model, collate([ids], [positions]).to(device), directions) for ids, positions in sequences]
    limit = 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 0.1
    checks = []
    for name in directions.tensors:
        for axis in ("target", "context"):
            errors = [
                relative_error(_axis(together, axis, name)[row, : len(ids)], _axis(one, axis, name)[0])
                for row, ((ids, _), one) in enumerate(zip(sequences, alone, strict=True))
            ]
            worst = max(errors)
            checks.append(Check(f"{name}, {axis} axis: batched against single", "‖Δ‖ / ‖values‖", worst, limit, worst <= limit))
    return checks


def agreement(one: ProbeResult, other: ProbeResult, sequences: Sequences, name: str, *, what: str, min_spearman: float) -> list[Check]:
    """Compare two ways of valuing the same batch by the order they give response tokens.

    Returns:
        per axis a check of Spearman's rank correlation over all response tokens, and the share of the upper half that both agree on
        (a figure; it passes with the first).
    """
    checks = []
    for axis in ("target", "context"):
        a, b = (
            torch.cat([_axis(r, axis, name)[i, list(pos)].double().cpu() for i, (_, pos) in enumerate(sequences)]) for r in (one, other)
        )
        there = ~(a.isnan() | b.isnan())
        rho = spearman(a[there], b[there])
        checks.append(Check(f"{name}, {axis} axis: {what}", "Spearman", rho, min_spearman, rho >= min_spearman))
        half = top_half_agreement(a[there], b[there])
        checks.append(Check(f"{name}, {axis} axis: {what}", "share of the upper half in common", half, 0.0, rho >= min_spearman))
    return checks


def low_rank_against_dense(
    model: nn.Module, dense: Mapping[str, Direction], low: Mapping[str, Direction], sequences: Sequences, min_spearman: float
) -> list[Check]:
    """Compare the values along low-rank directions with those along the dense ones they stand for."""
    device = next(model.parameters()).device
    batch = collate([s[0] for s in sequences], [s[1] for s in sequences]).to(device)
    exact, approximate = probe(model, batch, scale_directions(model, dense)), probe(model, batch, scale_directions(model, low))
    return [
        check
        for name in dense
        for check in agreement(exact, approximate, sequences, name, what="low rank against dense", min_spearman=min_spearman)
    ]


def _axis(result: ProbeResult, axis: str, name: str) -> Tensor:
    return (result.target_BT if axis == "target" else result.context_BT)[name]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return ‖got − expected‖ / ‖expected‖ over the entries that are finite in both; 0 where there are none."""
    got, expected = got.double().cpu(), expected.double().cpu()
    there = torch.isfinite(got) & torch.isfinite(expected)
    difference, size = (got[there] - expected[there]).norm(), expected[there].norm()
    return 0.0 if difference == 0 else float(difference / size)


def spearman(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors, average ranks for ties; 1 where either has no order to compare."""
    ranks = torch.stack([_average_ranks(a), _average_ranks(b)])
    centred = ranks - ranks.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    return 1.0 if bool((norms == 0).any()) else float((centred[0] * centred[1]).sum() / norms.prod())


def _average_ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0).double() - (counts.double() - 1) / 2)[inverse]
    return ranks


def top_half_agreement(a: Tensor, b: Tensor) -> float:
    """Return the share of the upper half by one vector that is in the upper half by the other."""
    num = max(1, len(a) // 2)
    first, second = (set(torch.argsort(x, descending=True, stable=True)[:num].tolist()) for x in (a, b))
    return len(first & second) / num


def half_against_full(
    full: nn.Module, half: nn.Module, directions: Mapping[str, Direction], sequences: Sequences, min_spearman: float
) -> list[Check]:
    """Compare the values of a model in half precision with those of the same model in float32."""
    batch = collate([s[0] for s in sequences], [s[1] for s in sequences]).to(next(full.parameters()).device)
    exact, rounded = probe(full, batch, directions), probe(half, batch, directions)
    what = f"{str(next(half.parameters()).dtype).removeprefix('torch.')} against float32"
    return [c for name in directions for c in agreement(exact, rounded, sequences, name, what=what, min_spearman=min_spearman)]
