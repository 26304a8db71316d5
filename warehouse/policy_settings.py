"""What a policy may be told, and which of it a mask depends on."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from warehouse.expressions import Expression, check_expression
from warehouse.write import OPTIONAL_SIGNALS

COLUMNS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss", "entropy", *OPTIONAL_SIGNALS)
"""Stored columns that may carry weight: the four components, then the signals."""

DIRECTIONAL = COLUMNS[:4]
"""Columns of values along a direction: those that are weighed by ω where the examples are pairs."""

KNOWN = COLUMNS + tuple(f"{form}_{column}" for form in ("zscore", "rank") for column in COLUMNS)
"""Columns of an expression: the stored ones, and each as a z-score and as a rank."""

BRANCHES = ("chosen", "rejected")
"""Branches of pairs."""

Select = Literal["value", "random", "all"]
Normalization = Literal["none", "zscore", "rank"]
Group = Literal["response", "source", "dataset"]
Soft = Literal["none", "rank", "score"]
Estimator = Literal["exact", "value_propagation"]


KEEP = 0.7
"""Share of the tokens that is kept where a policy does not say."""


def _components() -> dict[str, float]:
    return dict.fromkeys(DIRECTIONAL, 1.0)


@dataclass(frozen=True, kw_only=True)
class BranchSettings:
    """What a policy does otherwise on one branch of pairs; a setting left out is that of the policy.

    Attributes:
        select: instead of the policy's `select`.
        weights: instead of its `weights`, and of its `expression`.
        expression: instead of its `expression`, and of its `weights`.
        keep: instead of its `keep`, and of its `threshold`.
        threshold: instead of its `threshold`, and of its `keep`.
        min_kept: instead of its `min_kept`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    select: Select | None = None
    weights: Mapping[str, float] | None = None
    expression: str | None = None
    keep: float | None = None
    threshold: float | None = None
    min_kept: int | None = None

    def given(self) -> dict[str, Any]:
        """Return what is set, as fields of `PolicySettings`."""
        given = {entry.name: getattr(self, entry.name) for entry in fields(self) if getattr(self, entry.name) is not None}
        given |= {"threshold": None} if "keep" in given and "threshold" not in given else {}
        return given | ({"expression": None} if "weights" in given and "expression" not in given else {})


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How one policy turns stored columns into a mask.

    A token is eligible if it is a response token that has a score and is not protected. Kept are the highest ceil(keep × eligible) of
    each scope, or those that reach the threshold, in the order: score from high to low, position, sequence_id; then the `min_kept`
    highest of each response; then the protected tokens.

    Attributes:
        select: `value`: the score is Σ weight × normalised column, NULL where a weighted column is NULL. `random`: the score is a keyed
            digest of (seed, sequence_id, position), for the tokens that have a loss (adapt_direct is not NULL); with a threshold or
            `keep: auto`, as many of each scope as the selection by value keeps. `all`: every response token is
            kept, also those without values; nothing else matters.
        weights: column (one of `COLUMNS`) to weight; a column left out has weight 0.
        expression: the score as an SQL expression over the columns of a token, instead of weights and normalization:
            `adapt_causal - 0.5 * ref_loss`. Each column also exists behind `zscore_` and `rank_`. Operators, CASE, coalesce and plain
            functions of numbers are allowed. Not eligible where the result is NULL or not finite.
        normalization: `none`; `zscore`: minus the mean, over the population deviation, 0 where that is 0; `rank`: average rank scaled to
            [0, 1], 0.5 for a lone value. Statistics are over all non-NULL values of a column, protected tokens included; sequences
            that several examples share count once.
        normalize_over: where mean, deviation and ranks are taken: each response, each source (no source is one source), or everything.
        window: odd number of positions: a score becomes the mean of the scores of the response tokens in a centred window of that
            many, those without a score left out; 1 = no pooling. A token without a score of its own stays without.
        scope: where the highest are taken: response, source or dataset.
        keep: share of the eligible tokens to keep, 0 to 1; not used when there is a threshold. `auto`: the tokens whose score is at least
            that below which training tokens are likelier of another kind than the validation set's (warehouse/contamination.py): nearly
            all of clean data, whatever the share of bad tokens. For single responses; `branches` may say what pairs have instead.
        threshold: keep the tokens whose score is at least this, in units of the score; None = keep a share.
        soft: `none`: a token is kept or not. `rank`: a kept token also has a weight in (0, 1], for trainers that take weights: the share
            of the eligible tokens of the scope whose score is not above its own. `score`: that weight is the score itself, at most 1; a token
            whose score is not above 0 is not kept. Protected tokens have 1.
        protect_end_of_turn: whether end-of-turn tokens of the response are kept whatever their value.
        min_kept: eligible tokens kept of each response at least (all, if it has fewer); wins over `keep` and `threshold`.
        seed: key of `random`.
        branches: what is done otherwise on a branch of pairs: {rejected: {keep: 0.5}}. Without effect where the examples are single
            responses, as is the next setting.
        across_branches: whether scopes and groups wider than a response hold both branches of pairs, instead of each for itself.
        estimator: the estimator whose values the policy is for (`exact` or `value_propagation`); a scoring by another is refused. None: any.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    select: Select = "value"
    weights: Mapping[str, float] = field(default_factory=_components)
    expression: str | None = None
    normalization: Normalization = "zscore"
    normalize_over: Group = "dataset"
    window: int = 1
    scope: Group = "response"
    keep: float | Literal["auto"] = KEEP
    threshold: float | None = None
    soft: Soft = "none"
    protect_end_of_turn: bool = True
    min_kept: int = 1
    seed: int = 0
    branches: Mapping[str, BranchSettings] = field(default_factory=dict)
    across_branches: bool = False
    estimator: Estimator | None = None

    def __post_init__(self) -> None:
        choices = {"select": Select, "normalization": Normalization, "normalize_over": Group, "scope": Group, "soft": Soft}
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(get_args(literal))}")
        if self.keep != "auto" and (isinstance(self.keep, str) or not 0 <= self.keep <= 1):
            raise ValueError(f"keep: got {self.keep!r}, expected a share between 0 and 1, such as 0.7 for seven tokens in ten, or auto")
        if self.threshold is not None and not abs(self.threshold) <= _LARGEST_SCORE:
            raise ValueError(f"threshold: got {self.threshold}, expected a finite number; leave it out to keep a share")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window: got {self.window}, expected an odd number of positions, such as 9; 1 pools nothing")
        if self.min_kept < 0:
            raise ValueError(f"min_kept: got {self.min_kept}, expected a number of tokens, 0 or more; 0 lets a response lose them all")
        if self.soft == "score" and self.select == "random":
            raise ValueError("soft: got score with select: random, expected rank or none: scores at random are no weights")
        self._check_score()
        self._check_auto()
        if unknown := sorted(set(self.branches) - set(BRANCHES)):
            raise ValueError(f"branches: got {', '.join(unknown)}, expected {' or '.join(BRANCHES)}")
        if self.branches and self.across_branches:
            raise ValueError(
                "branches and across_branches: got both, expected one: a branch with settings of its own is selected by itself"
            )
        self.parts(has_pairs=True)

    def parts(self, *, has_pairs: bool) -> list[tuple[str | None, "PolicySettings"]]:
        """Return the branches that the policy is applied to one by one, with what it does there; None stands for all sequences."""
        plain = replace(self, branches={}) if self.branches else self
        if not has_pairs or self.across_branches:
            return [(None, plain)]
        return [(b, replace(plain, **self.branches[b].given()) if b in self.branches else plain) for b in BRANCHES]

    def _check_score(self) -> None:
        for column, weight in self.weights.items():
            if column not in COLUMNS:
                nearest = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.0)[0]
                raise ValueError(f"weights: got a column {column!r}, expected one of {', '.join(COLUMNS)}; did you mean {nearest!r}?")
            if not math.isfinite(weight):
                raise ValueError(f"weights: got {weight} for {column}, expected a finite number; leave the column out to ignore it")
        if self.expression is not None:
            self.checked_expression()
        elif self.select == "value" and not any(self.weights.values()):
            raise ValueError(f'weights: got {dict(self.weights)}, expected a weight other than 0; to keep every token, set select: "all"')

    def _check_auto(self) -> None:
        if self.keep != "auto":
            return
        if self.threshold is not None:
            raise ValueError("keep and threshold: got auto and a threshold, expected one of them: auto finds the threshold")
        if self.normalize_over == "source" and set(self.checked_expression().columns) - set(COLUMNS):
            raise ValueError(
                "normalize_over: got source with keep: auto, expected dataset or response: the validation set, which auto compares with, "
                "may have other sources"
            )

    @property
    def compares(self) -> bool:
        """Whether the validation set decides how much is kept."""
        return self.keep == "auto" and self.select != "all"

    @property
    def gives_weights(self) -> bool:
        """Whether its masks have soft weights."""
        return self.soft != "none" and self.select != "all"

    @property
    def needs_folds(self) -> bool:
        """Whether the validation set is to be valued by folds: its values along D_A count, of which it is a part."""
        return self.compares and any(column.startswith("adapt") for column in self.stored_columns())

    @property
    def reads_values(self) -> bool:
        """Whether scores by value are computed: to select by them, or to count how many a random selection keeps."""
        return self.select == "value" or (self.select == "random" and (self.threshold is not None or self.compares))

    def is_independent(self) -> bool:
        """Whether a sequence's row depends on its own values alone: nothing is selected, averaged or ranked over other sequences."""
        if self.select == "all":
            return True
        normalised = self.reads_values and bool(set(self.checked_expression().columns) - set(COLUMNS))
        return self.scope == "response" and not self.compares and not (normalised and self.normalize_over != "response")

    def stored_columns(self) -> set[str]:
        """Name the stored columns that scores by value are made of."""
        read = self.checked_expression().columns if self.reads_values else ()
        return {name.removeprefix("zscore_").removeprefix("rank_") for name in read}

    def checked_expression(self) -> Expression:
        """Return the score as a checked expression over `KNOWN`; weights are named weight_<column>, the numbers are parameters."""
        if self.expression is not None:
            return check_expression(self.expression, KNOWN)
        prefix = "" if self.normalization == "none" else f"{self.normalization}_"
        weighted = [column for column in COLUMNS if self.weights.get(column, 0.0) != 0]
        return Expression(" + ".join(f"weight_{c} * {prefix}{c}" for c in weighted), tuple(f"{prefix}{c}" for c in weighted))

    def scale(self) -> float:
        """Return the size of the largest weight: divided by it, equal weights are exact and no sum of finite values overflows."""
        if self.expression is not None:
            return 1.0
        return max(map(abs, self.weights.values()), default=0.0) or 1.0

    def decisive(self) -> dict[str, Any]:
        """Return the settings that the mask depends on."""
        if self.select == "all":
            return {"select": "all"}
        decisive: dict[str, Any] = {name: getattr(self, name) for name in ("select", "scope", "soft", "protect_end_of_turn", "min_kept")}
        if self.threshold is not None:
            decisive["threshold"] = float(self.threshold)
        else:
            decisive["keep"] = self.keep if self.keep == "auto" else float(self.keep)
        decisive |= {"seed": self.seed} if self.select == "random" else {}
        return decisive | self._decisive_score() if self.reads_values else decisive

    def _decisive_score(self) -> dict[str, Any]:
        expression = self.checked_expression()
        over = self.normalize_over if set(expression.columns) - set(COLUMNS) else None
        score: dict[str, Any] = {"normalize_over": over, "window": self.window}
        if self.expression is not None:
            return score | {"expression": expression.text}
        return score | {
            "normalization": self.normalization,
            "weights": {column: float(weight) for column, weight in self.weights.items() if weight != 0},
        }

    def as_json(self, told: Mapping[str, Any]) -> str:
        """Write all settings as JSON, and what else is to be told of a mask: β of pairs, what `auto` found."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        branches = {branch: one.given() for branch, one in self.branches.items()}
        return json.dumps(plain | {"weights": dict(self.weights), "branches": branches, **told}, sort_keys=True)


_LARGEST_SCORE = 1e300
"""Scores beyond it are not eligible; rounding multiplies by 65537."""

PAPER_STABILITY_WEIGHT, PAPER_KEEP = 1.5, 0.5
"""λ and ρ of arXiv 2606.01635 Eq. 12."""


def _default() -> PolicySettings:
    """Mask what surprises the reference model more than clean responses do; of pairs, keep a share by the four components (docs/evidence.md)."""
    components = BranchSettings(weights=_components(), keep=KEEP)
    return PolicySettings(expression="-ref_loss", keep="auto", branches=dict.fromkeys(BRANCHES, components))


def _paper() -> PolicySettings:
    """Write Eq. 12: Φ = adapt_direct + adapt_causal + λ (stab_direct + stab_causal) as they are; the best ρ of each response, none protected."""
    weights = {name: PAPER_STABILITY_WEIGHT if name.startswith("stab") else 1.0 for name in DIRECTIONAL}
    return PolicySettings(weights=weights, normalization="none", keep=PAPER_KEEP, protect_end_of_turn=False, estimator="value_propagation")


BUILT_IN: Mapping[str, PolicySettings] = MappingProxyType({
    "default": _default(),
    "random": replace(_default(), select="random"),
    "full": PolicySettings(select="all", keep=1.0),
    "paper": _paper(),
})
"""Policies that need no configuration; one that is named there, `default` too, starts from the fields of `PolicySettings`. `full` is
`select="all"`: with keep = 1 alone, tokens without a value would be dropped. (Their expressions are checked on import, in milliseconds.)"""
