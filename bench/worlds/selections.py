"""Scores made of the columns, and the tokens that a score keeps: the rules of the product's policies, in numpy, for runs without a store.

Reference test: tests/bench/test_worlds.py::test_selections_are_those_of_the_policies
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bench.worlds.values import Column, TokenTable, Valued
from warehouse.contamination import Contamination, compare

Score = Callable[[TokenTable, TokenTable], Column]
"""Score of the tokens of a table; means, deviations and ranks are those of another, the training data."""

Normalise = Callable[[Column, Column], Column]
FOUR = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal")


def zscore(column: Column, among: Column | None = None) -> Column:
    """Subtract the mean of a population, by default the column itself, and divide by its deviation; 0 where all of it are alike. NaN stays."""
    among = column if among is None else among
    deviation = np.nanstd(among)
    return (column - np.nanmean(among)) / deviation if deviation > 0 else column * 0.0


def rank(column: Column, among: Column | None = None) -> Column:
    """Scale average ranks among a population, by default the column itself, to [0, 1]; NaN stays."""
    among = column if among is None else among
    ordered = np.sort(among[np.isfinite(among)])
    twice = np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right") - 1
    return np.where(np.isfinite(column), twice / 2 / max(1, len(ordered) - 1), np.nan)


def pooled(score: Column, table: TokenTable, window: int) -> Column:
    """Take the mean over a centred window of positions of the same answer; tokens without a score count nowhere and stay without."""
    half, exists = window // 2, np.isfinite(score)
    sums, counts = np.zeros(len(score)), np.zeros(len(score))
    for shift in range(-half, half + 1):
        there = np.arange(len(score)) + shift
        inside = (there >= 0) & (there < len(score))
        there = there.clip(0, len(score) - 1)
        use = inside & (table.row[there] == table.row) & exists[there]
        sums += np.where(use, score[there], 0.0)
        counts += use
    return np.where(exists, sums / np.maximum(counts, 1), np.nan)


def keep_share(score: Column, table: TokenTable, share: float, scope: str = "response") -> NDArray[np.bool_]:
    """Keep the highest ceil(share · eligible) of each answer, or of the data set, ties to the earlier token; ends of turns on top."""
    eligible = np.isfinite(score) & ~table.is_end
    group = table.row if scope == "response" else np.zeros_like(table.row)
    order = np.lexsort((np.arange(len(score)), -np.where(eligible, score, -np.inf), ~eligible, group))
    starts = np.r_[0, np.flatnonzero(np.diff(group[order])) + 1]
    sizes = np.diff(np.r_[starts, len(order)])
    within = np.arange(len(order)) - np.repeat(starts, sizes)
    number = np.add.reduceat(eligible[order].astype(np.int64), starts)
    wanted = np.repeat(np.ceil(share * number - 1e-9).astype(np.int64), sizes)
    kept = np.zeros(len(score), dtype=bool)
    kept[order] = (within < wanted) & eligible[order]
    return kept | table.is_end


def shuffled(kept: NDArray[np.bool_], table: TokenTable, seed: int) -> NDArray[np.bool_]:
    """Draw as many tokens of each place in the answer as a mask keeps there; ends of turns on top."""
    rng, drawn = np.random.default_rng(seed), kept.copy()
    for place in np.unique(table.place):
        there = np.flatnonzero((table.place == place) & ~table.is_end)
        drawn[there] = rng.permutation(kept[there])
    return drawn


def keep_auto(score: Score, valued: Valued) -> tuple[NDArray[np.bool_], Contamination]:
    """Keep what scores as validation tokens do; ends of turns on top.

    Returns:
        (which training tokens are kept; what was found).
    """
    train, clean = (score(table, valued.train) for table in (valued.train, valued.held_out))
    inside, eligible = np.sort(train[~valued.train.is_end & np.isfinite(train)]), ~valued.held_out.is_end & np.isfinite(clean)

    def count(edges: Column) -> NDArray[np.int64]:
        return np.diff(np.searchsorted(inside, edges), prepend=0, append=len(inside))

    found = compare(count, clean[eligible])
    threshold = -np.inf if found.threshold is None else found.threshold
    return (train >= threshold) | valued.train.is_end, found


def _sum(normalise: Normalise, **weights: float) -> Score:
    return lambda table, among: np.sum([w * normalise(table.columns[n], among.columns[n]) for n, w in weights.items()], axis=0)


def _one(name: str, sign: float = 1.0) -> Score:
    return lambda table, among: sign * table.columns[name]


def _pooled(score: Score, window: int) -> Score:
    return lambda table, among: pooled(score(table, among), table, window)


_ADAPT_AND_REFERENCE = _sum(rank, adapt_causal=1.0, ref_loss=-1.0)
_FOUR_RANKS = _sum(rank, **dict.fromkeys(FOUR, 1.0))

SCORES: Mapping[str, Score] = {
    "adapt_direct": _one("adapt_direct"),
    "adapt_causal": _one("adapt_causal"),
    "stab_direct": _one("stab_direct"),
    "stab_causal": _one("stab_causal"),
    "drift_direct": _one("drift_direct"),
    "drift_causal": _one("drift_causal"),
    "four z-scores": _sum(zscore, **dict.fromkeys(FOUR, 1.0)),
    "four ranks": _FOUR_RANKS,
    "four ranks, window 5": _pooled(_FOUR_RANKS, 5),
    "adaptation pair, z-scores": _sum(zscore, adapt_direct=1.0, adapt_causal=1.0),
    "adapt_causal − ref_loss, ranks": _ADAPT_AND_REFERENCE,
    "adapt_causal − ref_loss, ranks, window 5": _pooled(_ADAPT_AND_REFERENCE, 5),
    "adapt pair − loss, ranks": _sum(rank, adapt_direct=1.0, adapt_causal=1.0, loss=-1.0),
    "four − loss, ranks": _sum(rank, **dict.fromkeys(FOUR, 1.0), loss=-1.0),
    "low loss": _one("loss", -1.0),
    "low loss, window 3": _pooled(_one("loss", -1.0), 3),
    "− loss − ref_loss, ranks": _sum(rank, loss=-1.0, ref_loss=-1.0),
    "adapt pair − loss − ref_loss, ranks": _sum(rank, adapt_direct=1.0, adapt_causal=1.0, loss=-1.0, ref_loss=-1.0),
    "high loss": _one("loss"),
    "low ref_loss": _one("ref_loss", -1.0),
    "excess loss (Rho-1)": _one("excess_loss"),
    "low excess loss": _one("excess_loss", -1.0),
    "Token Cleaning": _one("cleaning"),
    "entropy": _one("entropy"),
    "EL2N": _one("el2n"),
    "gradient norm": _one("grad_norm"),
    "low gradient norm": _one("grad_norm", -1.0),
    "position, early": _one("position", -1.0),
    "position, late": _one("position"),
}
"""High = keep."""
