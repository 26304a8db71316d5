"""Which tokens an arm learns from, with which weights; and how well scores tell corrupted tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bench.real.values import Valued, Weights
from bench.worlds.selections import SCORES, keep_share, pooled
from bench.worlds.values import TokenTable, auroc
from models.scoring import Scorer
from models.settings import WarmupSettings
from models.training import Sequences, fit

OF_THE_BENCH = ("oracle", "position_matched", "rho1", "dft")
"""Arms whose selection no column of the store gives: the truth; chance at the rate of `four_zscores` at every place of a response; excess loss over a
model trained on clean rows (Rho-1); every token, weighed by its probability while training (dynamic fine-tuning)."""

WINDOW = 9


def weights_of(arm: str, valued: Valued, paper: Valued | None, excess: NDArray[np.float64] | None, seed: int) -> Weights:
    """Give the weight of every response token.

    Args:
        arm: a policy of the release, `paper`, or one of `OF_THE_BENCH`.
        valued: the values and masks.
        paper: those by `value_propagation`, where the arm is `paper`.
        excess: of `excess_loss`, where the arm is `rho1`.
        seed: of chance.

    Returns:
        a list per row.
    """
    if arm == "oracle":
        return [[float(not bad) for bad in row] for row in valued.is_bad]
    if arm == "position_matched":
        return position_matched(valued.weights["four_zscores"], seed)
    if arm == "rho1":
        assert excess is not None, "rho1 needs the excess losses"
        return rows_of(keep_share(excess, table_of(valued), 0.7), valued)
    if arm == "paper":
        assert paper is not None, "the arm paper needs values by value_propagation"
        return paper.weights["paper"]
    return valued.weights["full" if arm == "dft" else arm]


def position_matched(weights: Weights, seed: int) -> Weights:
    """Draw a random mask that keeps as many tokens as another one at every place of a response.

    Args:
        weights: of the other mask; places count from the start of the response.
        seed: of the draw.

    Returns:
        weights 0 or 1.
    """
    rng = np.random.default_rng(seed)
    drawn = [[0.0] * len(row) for row in weights]
    for place in range(max(map(len, weights))):
        rows = [i for i, row in enumerate(weights) if place < len(row)]
        for i in rng.choice(rows, sum(weights[i][place] > 0 for i in rows), replace=False):
            drawn[i][place] = 1.0
    return drawn


def rows_of(flags: NDArray[np.bool_], valued: Valued) -> Weights:
    """Cut flags of all tokens into rows."""
    ends = np.cumsum([len(positions) for _, positions in valued.sequences])[:-1]
    return [part.astype(float).tolist() for part in np.split(flags, ends)]


def excess_loss(valued: Valued, base: nn.Module, clean: Sequences, settings: WarmupSettings) -> NDArray[np.float64]:
    """Take the loss at the scoring model minus that of the base fine-tuned on clean rows (Rho-1).

    Args:
        valued: the tokens.
        base: a copy of the base; trained in place.
        clean: clean rows.
        settings: of that fine-tuning.

    Returns:
        one number per response token, nats.
    """
    found = Scorer(fit(base, clean, settings), {}).score(*map(list, zip(*valued.sequences, strict=True)))
    return valued.columns["loss"] - np.concatenate([one.loss for one in found]).astype(np.float64)


def table_of(valued: Valued) -> TokenTable:
    """Put values and truth as the controlled world's scores read them."""
    place = np.concatenate([np.arange(len(positions)) for _, positions in valued.sequences])
    columns = {**valued.columns, "position": place.astype(np.float64)}
    return TokenTable(row=valued.row, place=place, is_bad=np.concatenate(valued.is_bad), is_end=valued.is_end, columns=columns)


def aurocs(valued: Valued, kinds: list[str], excess: NDArray[np.float64] | None) -> Mapping[str, Mapping[str, float]]:
    """Measure how well scores tell corrupted tokens, over all responses and over those of one kind beside the clean ones.

    Args:
        valued: the values.
        kinds: of every row.
        excess: of `excess_loss`, if there.

    Returns:
        by score and kind (`all` and those there are).
    """
    table = table_of(valued)
    inside = ~table.is_end
    kind = np.array(kinds)[table.row]
    scores: dict[str, Any] = {"loss − ref_loss": valued.columns["loss"] - valued.columns["ref_loss"]}
    for name, make in SCORES.items():
        try:
            scores[name] = make(table, table)
        except KeyError:  # a column that this table lacks
            continue
        if "window" not in name and name in POOLED:
            scores[f"{name}, window {WINDOW}"] = pooled(scores[name], table, WINDOW)
    if excess is not None:
        scores["excess over a clean model (Rho-1)"] = excess
    subsets = {"all": inside} | {one: inside & np.isin(kind, [one, "clean"]) for one in sorted(set(kinds) - {"clean"})}
    return {name: {one: auroc(score[where], table.is_bad[where]) for one, where in subsets.items()} for name, score in scores.items()}


POOLED = ("four z-scores", "four ranks", "adapt_causal − ref_loss, ranks", "low loss", "low ref_loss", "adapt_causal")
