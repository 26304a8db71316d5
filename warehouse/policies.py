"""Policies: how stored values become masks. The arithmetic is SQL (sql/masks); here are its settings, its identity and its one transaction."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from warehouse.connect import Warehouse
from warehouse.digests import digest

CODE_VERSION = 1
"""Bumped by hand when the same values and settings would give another mask."""

COLUMNS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss", "entropy")
"""Stored columns that may carry weight: the four components, then the signals."""

Select = Literal["value", "random", "all"]
Normalization = Literal["none", "zscore", "rank"]
Group = Literal["response", "source", "dataset"]
Estimator = Literal["exact", "value_propagation"]


def _components() -> dict[str, float]:
    return dict.fromkeys(COLUMNS[:4], 1.0)


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How one policy turns stored columns into a mask.

    A token is eligible if it is a response token that has a score and is not protected. Kept are the highest ceil(keep × eligible) of
    each scope in the order: score from high to low, position, sequence_id; then the `min_kept` highest of each response; then the
    protected tokens.

    Attributes:
        select: `value`: the score is Σ weight × normalised column, NULL where a weighted column is NULL. `random`: the score is a keyed
            digest of (seed, sequence_id, position), for the tokens that have a loss (adapt_direct is not NULL), so that its rate is
            that of the default; weights and normalisation do not matter. `all`: every response token is kept, also those
            without values; nothing else matters.
        weights: column (one of `COLUMNS`) to weight; a column left out has weight 0.
        normalization: `none`; `zscore`: minus the mean, over the population deviation, 0 where that is 0; `rank`: average rank scaled to
            [0, 1], 0.5 for a lone value. Statistics are over all non-NULL values of a column, protected tokens included; sequences
            that several examples share count once.
        normalize_over: where mean, deviation and ranks are taken: each response, each source (no source is one source), or everything.
        scope: where the highest are taken, likewise.
        keep: share of the eligible tokens to keep, 0 to 1.
        protect_end_of_turn: whether end-of-turn tokens of the response are kept whatever their value.
        min_kept: eligible tokens kept of each response at least (all, if it has fewer); wins over `keep`.
        seed: key of `random`.
        estimator: the estimator whose values the policy is for (`exact` or `value_propagation`); a scoring by another is refused. None: any.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    select: Select = "value"
    weights: Mapping[str, float] = field(default_factory=_components)
    normalization: Normalization = "zscore"
    normalize_over: Group = "dataset"
    scope: Group = "response"
    keep: float = 0.7
    protect_end_of_turn: bool = True
    min_kept: int = 1
    seed: int = 0
    estimator: Estimator | None = None

    def __post_init__(self) -> None:
        choices = {"select": Select, "normalization": Normalization, "normalize_over": Group, "scope": Group}
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(get_args(literal))}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep: got {self.keep}, expected a share between 0 and 1, such as 0.7 for seven tokens in ten")
        if self.min_kept < 0:
            raise ValueError(f"min_kept: got {self.min_kept}, expected a number of tokens, 0 or more; 0 lets a response lose them all")
        for column, weight in self.weights.items():
            if column not in COLUMNS:
                nearest = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.0)[0]
                raise ValueError(f"weights: got a column {column!r}, expected one of {', '.join(COLUMNS)}; did you mean {nearest!r}?")
            if not math.isfinite(weight):
                raise ValueError(f"weights: got {weight} for {column}, expected a finite number; leave the column out to ignore it")
        if self.select == "value" and not any(self.weights.values()):
            raise ValueError(f'weights: got {dict(self.weights)}, expected a weight other than 0; to keep every token, set select: "all"')


PAPER_STABILITY_WEIGHT, PAPER_KEEP = 1.5, 0.5
"""λ and ρ of arXiv 2606.01635 Eq. 12."""


def _paper() -> PolicySettings:
    """Write Eq. 12: Φ = adapt_direct + adapt_causal + λ (stab_direct + stab_causal) as they are; the best ρ of each response, none protected."""
    weights = {name: PAPER_STABILITY_WEIGHT if name.startswith("stab") else 1.0 for name in COLUMNS[:4]}
    return PolicySettings(weights=weights, normalization="none", keep=PAPER_KEEP, protect_end_of_turn=False, estimator="value_propagation")


BUILT_IN: Mapping[str, PolicySettings] = MappingProxyType({
    "default": PolicySettings(),
    "random": PolicySettings(select="random"),
    "full": PolicySettings(select="all", keep=1.0),
    "paper": _paper(),
})
"""Policies that need no configuration. `full` is `select="all"`: with keep = 1 alone, tokens without a value would be dropped."""


@dataclass(frozen=True)
class MaskReceipt:
    """What `write_mask` did.

    Attributes:
        mask_id: identity of the mask.
        policy: the policy that now points to it.
        num_tokens: response tokens of all sequences; one that several examples share counts once.
        num_kept: response tokens kept, likewise.
        num_sequences: sequences.
        written: whether the mask was computed; False if it was there.
    """

    mask_id: str
    policy: str
    num_tokens: int
    num_kept: int
    num_sequences: int
    written: bool


def mask_identity(policy_settings: PolicySettings, scoring_id: str, snapshot_id: str) -> str:
    """Digest what a mask depends on. Settings that cannot change it (the seed of a selection by value) are left out, and the name too."""
    return digest("mask", CODE_VERSION, _decisive(policy_settings), scoring_id, snapshot_id)


def write_mask(warehouse: Warehouse, policy: str, settings: PolicySettings, run_id: str) -> MaskReceipt:
    """Make a policy's mask of the current scoring and snapshot, and make it the policy's current one.

    A mask that is there with its receipt is not computed again, whatever the name of the policy it was made for. Otherwise rows,
    receipt and pointer are committed together.

    Args:
        warehouse: the open warehouse, no transaction begun.
        policy: name of the policy; the pointer is `mask:<policy>`.
        settings: what the policy does.
        run_id: the run.

    Returns:
        counts, and whether anything was computed.

    Raises:
        ValueError: there is no current scoring or snapshot, some of its sequences lack values, or the policy is for another estimator.
    """
    scoring_id, snapshot_id = warehouse.pointer("scoring"), warehouse.pointer("snapshot")
    if scoring_id is None or snapshot_id is None:
        missing = "scoring" if scoring_id is None else "snapshot"
        raise ValueError(f"policy {policy!r}: {warehouse.folder} has no current {missing}, so no values to mask; value the tokens first")
    _check_estimator(warehouse, policy, settings)
    mask_id = mask_identity(settings, scoring_id, snapshot_id)
    found = warehouse.one("masks/get_mask", mask_id=mask_id)
    if found is not None:
        if warehouse.pointer(f"mask:{policy}") != mask_id:  # a transaction alone would already note the run
            with warehouse.transaction():
                warehouse.point(f"mask:{policy}", mask_id)
        num_tokens, num_kept, num_sequences = found
        return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=False)
    try:
        _score(warehouse, policy, settings)
        with warehouse.transaction():
            num_sequences = _insert_values(warehouse, mask_id, settings)
            warehouse.run(
                "masks/insert_mask",
                mask_id=mask_id, policy=policy, settings=_canonical(settings), scoring_id=scoring_id, snapshot_id=snapshot_id, run_id=run_id,
            )  # fmt: skip
            warehouse.run("runs/insert_receipt", stage="mask", identity=mask_id, num_rows=num_sequences, run_id=run_id)
            warehouse.point(f"mask:{policy}", mask_id)
    finally:
        warehouse.run("masks/drop_tokens")
        warehouse.run("masks/drop_scores")
    num_tokens, num_kept, num_sequences = _one_row(warehouse, "masks/get_mask", mask_id=mask_id)
    return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=True)


def _check_estimator(warehouse: Warehouse, policy: str, settings: PolicySettings) -> None:
    """Refuse a scoring by another estimator than the policy is for.

    Raises:
        ValueError: the estimators differ.
    """
    if settings.estimator is None:
        return
    row = warehouse.one("status/scoring_settings")
    estimator = json.loads(row[0]).get("estimator") if row is not None else None
    if estimator != settings.estimator:
        raise ValueError(
            f"policy {policy!r} is for values of the estimator {settings.estimator!r}, but the current scoring is by {estimator!r}; "
            f"set scoring.estimator to {settings.estimator} and value the tokens again, or name another policy"
        )


def _score(warehouse: Warehouse, policy: str, settings: PolicySettings) -> None:
    """Fill the temporary table mask_scores: the score of every eligible token, NULL for any other.

    Raises:
        ValueError: sequences of the snapshot lack values; a mask without them would look complete.
    """
    weights = _weights(settings)
    warehouse.run(
        "masks/create_tokens",
        normalize_over=settings.normalize_over, scope=settings.scope, protect=settings.protect_end_of_turn and settings.select != "all", **weights,
    )  # fmt: skip
    num_sequences, num_valued = _one_row(warehouse, "masks/count_sequences")
    if num_valued != num_sequences:
        raise ValueError(
            f"policy {policy!r}: {num_valued} of the {num_sequences} sequences of the current snapshot have values under the current scoring; "
            "a mask needs them all: value the tokens first (an interrupted run continues where it stopped)"
        )
    if settings.select == "all":
        warehouse.run("masks/score_all")
    elif settings.select == "random":
        warehouse.run("masks/score_random", seed=str(settings.seed))
    else:
        if settings.normalization == "rank":
            for column in COLUMNS:
                if weights[column] != 0:
                    warehouse.run("masks/rank_column", name=column)
        warehouse.run("masks/score_values", standardize=settings.normalization == "zscore", **weights)
    warehouse.run("masks/drop_tokens")


def _insert_values(warehouse: Warehouse, mask_id: str, settings: PolicySettings) -> int:
    """Select from mask_scores into record.mask_values; leftovers of a mask without receipt go first.

    Returns:
        number of sequences.
    """
    warehouse.run("masks/delete_mask", mask_id=mask_id)
    warehouse.run("masks/delete_mask_values", mask_id=mask_id)
    selection = {"scope": settings.scope, "keep": float(settings.keep), "min_kept": settings.min_kept}
    if settings.select == "all":
        selection = {"scope": "response", "keep": 1.0, "min_kept": 0}
    return _one_row(warehouse, "masks/insert_mask_values", mask_id=mask_id, **selection)[0]


def _weights(settings: PolicySettings) -> dict[str, float]:
    """Scale the weights so that the largest is ±1: exact where all are equal, and no sum of finite values overflows a DOUBLE.

    Returns:
        column to weight, for all of `COLUMNS`. `random` reads adapt_direct alone, to see which tokens have a loss; `all` reads nothing.
    """
    given = {"value": settings.weights, "random": {"adapt_direct": 1.0}, "all": {}}[settings.select]
    largest = max(map(abs, given.values()), default=1.0)
    return {column: given.get(column, 0.0) / largest for column in COLUMNS}


def _decisive(settings: PolicySettings) -> dict[str, Any]:
    """Settings that the mask depends on."""
    if settings.select == "all":
        return {"select": "all"}
    decisive: dict[str, Any] = {name: getattr(settings, name) for name in ("select", "scope", "protect_end_of_turn", "min_kept")}
    decisive["keep"] = float(settings.keep)
    if settings.select == "random":
        return decisive | {"seed": settings.seed}
    decisive["weights"] = {column: float(weight) for column, weight in settings.weights.items() if weight != 0}
    over = None if settings.normalization == "none" else settings.normalize_over
    return decisive | {"normalization": settings.normalization, "normalize_over": over}


def _canonical(settings: PolicySettings) -> str:
    """Write all settings as JSON."""
    plain = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return json.dumps(plain | {"weights": dict(settings.weights)}, sort_keys=True)


def _one_row(warehouse: Warehouse, name: str, /, **parameters: Any) -> tuple[int, ...]:
    row: tuple[int, ...] | None = warehouse.one(name, **parameters)
    assert row is not None, f"{name} has exactly one row"
    return row
