"""Checks of the engine on a user's own model: exact against slow, batched against single, low rank against dense, half against full."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.batches import collate
from models.lowrank import Direction
from models.oracle import slow_values
from models.probe import ProbeResult, ScaledDirections, probe, scale_directions, total_norm

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
    slow = slow_values(model, ids, positions, directions)
    limit = TOLERANCES[first.dtype]
    checks = []
    for name, expected in slow.items():
        pairs = {"target": (result.target_BT[name][0], expected.target_T), "context": (result.context_BT[name][0], expected.context_T)}
        for axis, (got_T, expected_T) in pairs.items():
            error = relative_error(got_T, expected_T)
            checks.append(Check(f"{name}, {axis} axis: exact against the slow loop", "‖Δ‖ / ‖values‖", error, limit, error <= limit))
    return checks


def verify(model: nn.Module, directions: Mapping[str, Direction], sequences: Sequences, *, packing: bool = False) -> None:
    """Hold the engine to the definition of its values on a slice of a sequence; the first thing a scoring does with a model.

    What it cannot see: positions that meet outside attention only over more tokens than the slice has.

    Args:
        model: frozen, in eval mode.
        directions: name to direction.
        sequences: sequences with a response token that has a loss; values are compared on a slice of the last.
        packing: compare a packed row with its sequences alone, too.

    Raises:
        WrongValuesError: a value is off by more than the dtype explains. Values whose definition is itself not finite are not compared.
    """
    finite = {name: direction for name, direction in directions.items() if math.isfinite(total_norm(direction.values()))}
    for check in exact_against_slow(model, finite, *sequences[-1]) if finite else ():
        if not check.passed and not math.isnan(check.value):
            raise WrongValuesError(
                f"{check.name}: {check.measure} is {check.value:.2g}, expected at most {check.limit:g}. An operation of "
                f"{type(model).__name__} hides its derivative or moves information between positions outside attention, so its values would "
                "be wrong; the model is not supported. Leave the parameters before that operation out of scope with scoring.scope_exclude, "
                'or load it with attn_implementation="eager"; please report its class'
            )
    if packing:
        _verify_packing(model, [slice_of(*one) for one in sequences[-2:]])


def _verify_packing(model: nn.Module, sequences: Sequences) -> None:
    """Compare the losses of a packed row with those of its sequences alone: a neighbour that is seen changes them."""
    first = next(model.parameters())
    doubled = [*sequences, *sequences][:2]  # one sequence is its own neighbour
    packed = collate([ids for ids, _ in doubled], [positions for _, positions in doubled], packed=True)
    together = probe(model, packed.to(first.device), {}).loss_BT
    for place, (ids, positions) in zip(packed.places([len(ids) for ids, _ in doubled]), doubled, strict=True):
        alone = probe(model, collate([ids], [positions]).to(first.device), {}).loss_BT[0]
        error = relative_error(together[place], alone)
        if error > TOLERANCES[first.dtype]:
            raise WrongValuesError(
                f"losses in a packed row differ from those of the sequence alone (‖Δ‖ / ‖losses‖ {error:.2g}): {type(model).__name__} lets "
                "neighbours see each other; set scoring.packing to false"
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


def agreement(exact: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str, *, what: str, min_spearman: float) -> list[Check]:
    """Compare two ways of valuing the same response tokens by the order they give them.

    Args:
        exact: per axis, values of all response tokens.
        other: the same, valued the other way.
        name: the direction.
        what: what is compared, in words.
        min_spearman: what passes.

    Returns:
        per axis a check of Spearman's rank correlation, and the share of the upper half that both agree on (a figure; it passes with the
        first).
    """
    checks = []
    for axis, a in exact.items():
        b = other[axis]
        there = torch.isfinite(a)
        rho = spearman(a[there], b[there]) if bool(torch.isfinite(b[there]).all()) else float("nan")
        passed = rho >= min_spearman
        checks.append(Check(f"{name}, {axis} axis: {what}", "Spearman", rho, min_spearman, passed))
        half = top_half_agreement(a[there], b[there])
        checks.append(Check(f"{name}, {axis} axis: {what}", "share of the upper half in common", half, 0.0, passed))
    return checks


def low_rank_against_dense(
    model: nn.Module, dense: Mapping[str, Direction], low: Mapping[str, Direction], sequences: Sequences, min_spearman: float
) -> list[Check]:
    """Compare the values along low-rank directions with those along the dense ones they stand for, sequence by sequence."""
    both = scale_directions(model, {**dense, **{f"{name}, low rank": direction for name, direction in low.items()}})
    values = _response_values(model, both, sequences)
    return [
        check
        for name in dense
        for check in agreement(values[name], values[f"{name}, low rank"], name, what="low rank against dense", min_spearman=min_spearman)
    ]


def half_against_full(
    full: nn.Module, half: nn.Module, directions: Mapping[str, Direction], sequences: Sequences, min_spearman: float
) -> list[Check]:
    """Compare the values of a model in half precision with those of the same model in float32, sequence by sequence."""
    exact, rounded = (_response_values(model, scale_directions(model, directions), sequences) for model in (full, half))
    what = f"{str(next(half.parameters()).dtype).removeprefix('torch.')} against float32"
    return [c for name in directions for c in agreement(exact[name], rounded[name], name, what=what, min_spearman=min_spearman)]


def _response_values(model: nn.Module, directions: ScaledDirections, sequences: Sequences) -> dict[str, dict[str, Tensor]]:
    """Value sequences one by one; per direction and axis the values of all response tokens that have a loss, float64, on the CPU."""
    device = next(model.parameters()).device
    found: dict[str, dict[str, list[Tensor]]] = {name: {"target": [], "context": []} for name in directions.tensors}
    for ids, positions in sequences:
        result = probe(model, collate([ids], [positions]).to(device), directions)
        counted = [u for u in positions if u > 0]
        for name, axes in found.items():
            for axis, parts in axes.items():
                parts.append(_axis(result, axis, name)[0, counted].double().cpu())
    return {name: {axis: torch.cat(parts) for axis, parts in axes.items()} for name, axes in found.items()}


def _axis(result: ProbeResult, axis: str, name: str) -> Tensor:
    return (result.target_BT if axis == "target" else result.context_BT)[name]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return ‖got − expected‖ / ‖expected‖ over the entries where `expected` is finite.

    Returns:
        the error; infinite where an entry is missing in `got` alone, NaN where nothing can be compared.
    """
    got, expected = got.double().cpu(), expected.double().cpu()
    there = torch.isfinite(expected)
    if not bool(there.any()):
        return float("nan")
    if not bool(torch.isfinite(got[there]).all()):
        return float("inf")
    difference, size = (got[there] - expected[there]).norm(), expected[there].norm()
    return 0.0 if difference == 0 else float(difference / size)


def spearman(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors, average ranks for ties.

    Returns:
        in [-1, 1]; 1 where neither has an order, 0 where one alone has none, NaN where they are empty.
    """
    if not len(a):
        return float("nan")
    ranks = torch.stack([_average_ranks(a), _average_ranks(b)])
    centred = ranks - ranks.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    if bool((norms == 0).any()):
        return float(bool((norms == 0).all()))
    return float((centred[0] * centred[1]).sum() / norms.prod())


def _average_ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0).double() - (counts.double() - 1) / 2)[inverse]
    return ranks


def top_half_agreement(a: Tensor, b: Tensor) -> float:
    """Return the share of the upper half by one vector that is in the upper half by the other."""
    num = max(1, len(a) // 2)
    first, second = (set(torch.argsort(x, descending=True, stable=True)[:num].tolist()) for x in (a, b))
    return len(first & second) / num
