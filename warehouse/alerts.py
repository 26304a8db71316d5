"""Alerts on data: figures of the warehouse as it is now beside those of its current release, which is what readers have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.alert_settings import Action, AlertSettings, Rule
from warehouse.queries import Queries

COLUMNS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss", "entropy")
"""Columns that are compared: those that every scoring has."""

_NO_COUNT = 0.5
"""Added to the count of every bin, so that an empty one has a finite logarithm."""


class DataAlertError(RuntimeError):
    """A figure of the data is above a limit whose action is `fail`."""


@dataclass(frozen=True)
class Finding:
    """A figure that was compared with its limit.

    Attributes:
        rule: the rule, a setting of `alerts`.
        what: column, or policy and source.
        figure: what was measured.
        limit: largest figure in order.
        action: what follows when it is above.
        detail: the two sides of the comparison, in words.
    """

    rule: str
    what: str
    figure: float
    limit: float
    action: Action
    detail: str

    @property
    def fired(self) -> bool:
        """Whether the figure is above its limit."""
        return self.figure > self.limit

    def as_row(self) -> dict[str, Any]:
        """Return the finding as a row of a table."""
        state = self.action if self.fired else "in order"
        return {
            "rule": self.rule,
            "what": self.what,
            "figure": round(self.figure, 4),
            "limit": self.limit,
            "state": state,
            "detail": self.detail,
        }

    def __str__(self) -> str:
        return f"{self.rule} of {self.what} is {self.figure:.3g}, limit {self.limit:g} ({self.detail})"


def compare(now: Queries, before: Queries | None, settings: AlertSettings) -> list[Finding]:
    """Compare the warehouse as it is with a release.

    Args:
        now: the warehouse, its masks written.
        before: the release before it; None where there is none, and the rules that compare find nothing.
        settings: rules.

    Returns:
        every figure that was measured, those that fired first.
    """
    rules = {name: rule for name, rule in settings.rules().items() if rule.action != "ignore"}
    found: list[Finding] = []
    if "bad_rows" in rules:
        found += _bad_rows(now, rules["bad_rows"])
    if before is not None and "kept_share" in rules:
        found += _kept_shares(now, before, rules["kept_share"], settings.min_tokens)
    if rules.keys() & {"psi", "ks", "added_psi", "null_share"} and now.pointer("scoring") is not None:
        found += _values(now, before if before is not None and before.pointer("scoring") is not None else None, rules, settings.min_tokens)
    return sorted(found, key=lambda one: (not one.fired, one.rule, one.what))


def psi(before: Sequence[int], now: Sequence[int]) -> float:
    """Measure the population stability index of two counts over the same bins.

    Args:
        before: counts of the bins.
        now: counts of the same bins.

    Returns:
        Σ (q − p) ln(q / p), at least 0; half a count is added to every bin.
    """
    p, q = ([(count + _NO_COUNT) / (sum(counts) + _NO_COUNT * len(counts)) for count in counts] for counts in (before, now))
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def ks(before: Sequence[int], now: Sequence[int]) -> float:
    """Measure the largest distance of two distribution functions at the ends of common bins.

    Args:
        before: counts of the bins, in order; at least one.
        now: counts of the same bins; at least one.

    Returns:
        the distance, from 0 to 1.
    """
    largest, p, q = 0.0, 0.0, 0.0
    for a, b in zip(before, now, strict=True):
        p, q = p + a / sum(before), q + b / sum(now)
        largest = max(largest, abs(p - q))
    return largest


def _bad_rows(now: Queries, rule: Rule) -> Iterator[Finding]:
    row = now.one("alerts/bad_rows")
    if row is not None and row[0]:
        yield Finding("bad_rows", "data.train", row[1] / row[0], rule.limit, rule.action, f"{row[1]:,} of {row[0]:,} rows")


def _kept_shares(now: Queries, before: Queries, rule: Rule, min_tokens: int) -> Iterator[Finding]:
    """Compare kept shares of the policies and sources that both sides have with tokens enough."""
    old, new = (
        {
            (policy, source): (kept / tokens, tokens)
            for policy, source, tokens, kept in side.run("alerts/kept_by_source").fetchall()
            if tokens
        }
        for side in (before, now)
    )
    for key in sorted(old.keys() & new.keys(), key=str):
        (share, tokens), (share_now, tokens_now) = old[key], new[key]
        if min(tokens, tokens_now) >= min_tokens:
            what = f"policy {key[0]}, source {key[1] if key[1] is not None else 'NULL'}"
            yield Finding("kept_share", what, abs(share_now - share), rule.limit, rule.action, f"kept {share:.1%}, now {share_now:.1%}")


@dataclass(frozen=True)
class _Bins:
    """Counts of a column: response tokens, those with a value, and values by bin."""

    num_tokens: int
    num_values: int
    counts: list[int]


def _values(now: Queries, before: Queries | None, rules: Mapping[str, Rule], min_tokens: int) -> Iterator[Finding]:
    edges = _edges(now if before is None else before)
    counted = _bins(now, edges, None)
    for name, bins in counted.items():
        if "null_share" in rules and bins.num_tokens:
            missing = bins.num_tokens - bins.num_values
            detail = f"{missing:,} of {bins.num_tokens:,} response tokens"
            yield _finding("null_share", rules, name, missing / bins.num_tokens, detail)
    if before is None:
        return
    earlier = _bins(before, edges, None)
    for rule, measure in (("psi", psi), ("ks", ks)):
        if rule in rules:
            yield from _drift(rule, rules, measure, earlier, counted, min_tokens)
    if "added_psi" in rules and now.pointer("snapshot") != before.pointer("snapshot"):
        yield from _drift("added_psi", rules, psi, earlier, _bins(now, edges, before.pointer("snapshot")), min_tokens)


def _drift(
    rule: str, rules: Mapping[str, Rule], measure: Any, before: Mapping[str, _Bins], now: Mapping[str, _Bins], min_tokens: int
) -> Iterator[Finding]:
    for name, bins in now.items():
        if min(bins.num_values, before[name].num_values) >= min_tokens:
            detail = f"{before[name].num_values:,} values before, {bins.num_values:,} {'added' if rule == 'added_psi' else 'now'}"
            yield _finding(rule, rules, name, measure(before[name].counts, bins.counts), detail)


def _finding(rule: str, rules: Mapping[str, Rule], what: str, figure: float, detail: str) -> Finding:
    return Finding(rule, what, figure, rules[rule].limit, rules[rule].action, detail)


def _edges(side: Queries) -> dict[str, list[float]]:
    """Read the deciles of a side; a column of few distinct values has fewer."""
    found = {name: sorted(set(edges or [])) for name, edges in side.run("alerts/deciles").fetchall()}
    return {name: found.get(name, []) or [0.0] for name in COLUMNS}


def _bins(side: Queries, edges: Mapping[str, list[float]], without: str | None) -> dict[str, _Bins]:
    rows = side.run("alerts/bins", without=without, **edges).fetchall()
    return {
        name: _Bins(num_tokens, num_values, [int((bins or {}).get(end, 0)) for end in [*edges[name], math.inf]])
        for name, num_tokens, num_values, bins in rows
    }
