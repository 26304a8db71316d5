"""Settings of the alerts on data: which figures of a new release are compared with the one before it, and what follows."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Action = Literal["ignore", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A limit and what follows when a figure is above it.

    Attributes:
        limit: largest figure that is in order.
        action: `warn` makes a warning artifact, `fail` stops the run before its release is written, `ignore` compares nothing.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    limit: float = 0.0
    action: Action = "warn"

    def __post_init__(self) -> None:
        if not 0 <= self.limit < math.inf:
            raise ValueError(f"alerts: a limit is {self.limit}; it must be finite and at least 0")


@dataclass(frozen=True, kw_only=True)
class KeptShareRule(Rule):
    """Change of the share of response tokens that a policy keeps of a source, up or down.

    Attributes:
        limit: largest change that is in order; 0.1 = ten points of a hundred.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.1


@dataclass(frozen=True, kw_only=True)
class PsiRule(Rule):
    """Population stability index of a column of values, over the deciles of the earlier release.

    Attributes:
        limit: largest index that is in order; by convention 0.1 is a small shift and 0.25 a large one.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.25


@dataclass(frozen=True, kw_only=True)
class KsRule(Rule):
    """Kolmogorov-Smirnov distance of a column of values, at the deciles of the earlier release.

    Attributes:
        limit: largest distance of the two distribution functions that is in order, from 0 to 1.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.15


@dataclass(frozen=True, kw_only=True)
class AddedPsiRule(Rule):
    """Population stability index of the examples added since the earlier release against all of that release.

    Attributes:
        limit: largest index that is in order. A few odd rows among many move the index of all rows little, and this one much.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.5


@dataclass(frozen=True, kw_only=True)
class NullShareRule(Rule):
    """Share of response tokens without a value in a column.

    Attributes:
        limit: largest share that is in order.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.01


@dataclass(frozen=True, kw_only=True)
class BadRowsRule(Rule):
    """Share of the rows of `data.train` that became no sequence.

    Attributes:
        limit: largest share that is in order; `data.train.max_rejected_share` stops a run by itself.
        action: `ignore`, `warn` or `fail`.
    """

    limit: float = 0.02


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Figures of the data that a run compares with the release before it.

    Attributes:
        kept_share: change of the kept share, by policy and source.
        psi: drift of the values, by column.
        ks: drift of the values, another measure.
        added_psi: drift of the added examples alone, by column.
        null_share: missing values, by column.
        bad_rows: rows that cannot be used.
        min_tokens: response tokens that a source, or the added examples, must have to be compared.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kept_share: KeptShareRule = field(default_factory=KeptShareRule)
    psi: PsiRule = field(default_factory=PsiRule)
    ks: KsRule = field(default_factory=KsRule)
    added_psi: AddedPsiRule = field(default_factory=AddedPsiRule)
    null_share: NullShareRule = field(default_factory=NullShareRule)
    bad_rows: BadRowsRule = field(default_factory=BadRowsRule)
    min_tokens: int = 1000

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise ValueError(f"alerts.min_tokens is {self.min_tokens}; it must be at least 1")

    def rules(self) -> dict[str, Rule]:
        """Return the rules by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Rule)}
