"""What masks do where the truth of every token is known.

python -m bench.worlds auroc                                   # which values tell which damage
python -m bench.worlds frontier --kinds span clean             # accuracy of the new skill against the old ones, by mask and learning rate
python -m bench.worlds frontier --size 30M --device cuda --seeds 0 1 2 --out rows.jsonl
python -m bench.worlds auroc --read rows.jsonl                 # the table of an earlier run

`--out` appends every measurement to a file; those that it holds already are not made again.
"""

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.measurements import Row, add, earlier
from bench.worlds.base import REGIMES, SHAPES, examples_of, measure, pretrained
from bench.worlds.damage import DAMAGE, TrainingExample, training_data
from bench.worlds.selections import SCORES, keep_auto, keep_share, shuffled
from bench.worlds.skills import chain
from bench.worlds.tables import auroc_tables, frontier_table, gain_table, gains_over_full, write_plots
from bench.worlds.values import TokenTable, Valued, auroc, copy_of, encoded, score
from models.settings import WarmupSettings
from models.training import fit


def data_of(kind: str, args: argparse.Namespace, seed: int) -> list[TrainingExample]:
    """Draw and damage the training data of a seed."""
    return training_data(examples_of(chain, args.rows, 20_000 + seed), kind, args.rate, seed)


def table_of(reference: nn.Module, data: list[TrainingExample], args: argparse.Namespace, seed: int) -> tuple[Valued, float]:
    """Value the data.

    Returns:
        (the tables; what it cost, in seconds).
    """
    began = time.perf_counter()
    validation = examples_of(chain, args.validation, 30_000 + seed)
    valued = score(reference, data, validation, warmup_steps=args.warmup, learning_rate=args.lrs[0], seed=seed)
    return valued, time.perf_counter() - began


def auroc_rows(args: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Measure how well each score tells damage, and what `keep: auto` makes of it."""
    for regime, kind, seed in ((r, k, s) for r in args.regimes for s in args.seeds for k in args.kinds):
        if key_of("auroc", args.size, regime, kind, seed) not in done:
            reference = pretrained(args.size, regime, args.pretraining, 0, torch.device(args.device), args.cache)
            yield auroc_row(args, regime, kind, seed, *table_of(reference, data_of(kind, args, seed), args, seed))


def auroc_row(args: argparse.Namespace, regime: str, kind: str, seed: int, valued: Valued, seconds: float) -> Row:
    """Measure the scores of a damaged data set."""
    table = valued.train
    inside = ~table.is_end
    return {
        "key": key_of("auroc", args.size, regime, kind, seed), "regime": regime, "kind": kind, "seed": seed, "seconds": seconds,
        "auroc": {name: auroc(make(table, table)[inside], table.is_bad[inside]) for name, make in SCORES.items()},
        "auto": {name: auto_figures(name, valued) for name in SCORES},
    }  # fmt: skip


def auto_figures(name: str, valued: Valued) -> dict[str, float]:
    """Tell what `keep: auto` keeps: share of damaged tokens masked, of good ones lost, and the share of clean tokens that it estimates."""
    kept, found = keep_auto(SCORES[name], valued)
    inside, bad = ~valued.train.is_end, valued.train.is_bad
    masked = float((~kept)[bad].mean()) if bad.any() else math.nan
    return {"masked": masked, "lost": float((~kept)[inside & ~bad].mean()), "clean_share": found.clean_share, "kept": float(kept.mean())}


def frontier_rows(args: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Train every arm at every learning rate, at equal steps, and measure the new skill and the old ones."""
    for regime, kind, seed in ((r, k, s) for r in args.regimes for s in args.seeds for k in args.kinds):
        wanted = [(arm, lr) for arm in ("nothing", *args.arms) for lr in (args.lrs if arm != "nothing" else args.lrs[:1])]
        missing = [(arm, lr) for arm, lr in wanted if key_of("frontier", args.size, regime, kind, seed, arm, lr) not in done]
        if not missing:
            continue
        reference = pretrained(args.size, regime, args.pretraining, 0, torch.device(args.device), args.cache)
        data = data_of(kind, args, seed)
        valued, seconds = table_of(reference, data, args, seed)
        if key_of("auroc", args.size, regime, kind, seed) not in done:  # they cost nothing more
            yield auroc_row(args, regime, kind, seed, valued, seconds)
        measured: dict[tuple[bytes, float], Mapping[str, float]] = {}  # arms that keep the same tokens are one training
        for arm, lr in missing:
            kept = None if arm == "nothing" else kept_by(arm, valued, args.keep, seed)
            same = (b"" if kept is None else kept.tobytes(), lr)
            if same not in measured:
                measured[same] = measure(reference if kept is None else trained(reference, data, valued.train, kept, args, lr, seed))
            yield {
                "key": key_of("frontier", args.size, regime, kind, seed, arm, lr), "regime": regime, "kind": kind, "seed": seed, "arm": arm,
                "lr": lr, "kept": 1.0 if kept is None else float(kept.mean()), **measured[same],
            }  # fmt: skip


def kept_by(arm: str, valued: Valued, share: float, seed: int) -> NDArray[np.bool_]:
    """Make the mask of an arm.

    Args:
        arm: `full`, `oracle` (all but the damage), `random`, one of `SCORES`, `auto: ` before one of them (as much as `keep: auto` keeps), or
            `shuffled ` before any other (as many tokens of each place in the answer, at random).
        valued: the tables.
        share: what is kept of each answer where the arm does not say.
        seed: of random masks.

    Returns:
        which training tokens are kept.
    """
    table = valued.train
    if arm == "full":
        return np.ones(len(table.row), dtype=bool)
    if arm == "oracle":
        return ~table.is_bad
    if arm == "random":
        return keep_share(np.random.default_rng(seed).random(len(table.row)), table, share)
    if arm.startswith("shuffled "):
        return shuffled(kept_by(arm.removeprefix("shuffled "), valued, share, seed), table, seed)
    if arm.startswith("auto: "):
        return keep_auto(SCORES[arm.removeprefix("auto: ")], valued)[0]
    return keep_share(SCORES[arm](table, table), table, share)


def trained(
    reference: nn.Module,
    data: list[TrainingExample],
    table: TokenTable,
    kept: NDArray[np.bool_],
    args: argparse.Namespace,
    lr: float,
    seed: int,
) -> nn.Module:
    """Fine-tune a copy of the reference on the kept tokens."""
    kept_of = np.split(kept, np.flatnonzero(np.diff(table.row)) + 1)
    rows = [
        (ids, [p for p, keep in zip(positions, own, strict=True) if keep])
        for (ids, positions), own in zip(encoded(data), kept_of, strict=True)
    ]
    steps = round(args.epochs * len(rows) / args.batch_size)
    return fit(copy_of(reference), rows, WarmupSettings(steps=steps, batch_size=args.batch_size, learning_rate=lr, seed=seed))


def key_of(*parts: object) -> str:
    """Name a measurement."""
    return " | ".join(map(str, parts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.worlds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["auroc", "frontier"])
    parser.add_argument("--size", default="1M", choices=list(SHAPES))
    parser.add_argument("--regimes", nargs="+", default=["competent"], choices=list(REGIMES))
    parser.add_argument("--kinds", nargs="+", default=[*DAMAGE, "clean"], choices=[*DAMAGE, "clean"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=0.5, help="share of damaged answers")
    parser.add_argument("--rows", type=int, default=1024, help="training examples")
    parser.add_argument("--validation", type=int, default=64, help="clean examples of the adaptation direction")
    parser.add_argument("--pretraining", type=int, default=4000, help="steps of pre-training, once per size and regime")
    parser.add_argument("--warmup", type=int, default=64, help="steps of the scoring model")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lrs", type=float, nargs="+", default=[5e-4, 2e-4, 1e-4])
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[
            "full",
            "random",
            "oracle",
            "four z-scores",
            "low loss",
            "auto: low loss",
            "auto: low ref_loss",
            "shuffled auto: low ref_loss",
        ],
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "alphatoken" / "worlds", help="pre-trained models")
    parser.add_argument("--out", type=Path, help="JSON lines of measurements")
    parser.add_argument("--plots", type=Path, help="folder of SVG files of the frontiers")
    parser.add_argument("--read", type=Path, nargs="+", help="print the table of earlier measurements")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    args = _arguments()
    rows = earlier(args.read, args.out)
    if args.read is None:
        make = {"auroc": auroc_rows, "frontier": frontier_rows}[args.what]
        add(rows, make(args, {row["key"] for row in rows}), args.out)
    mine = [row for row in rows if row["key"].startswith(args.what)]
    tables = [auroc_tables] if args.what == "auroc" else [frontier_table, gain_table, gains_over_full]
    print("\n\n".join(table(mine) for table in tables))
    if args.plots is not None and args.what == "frontier":
        write_plots(mine, args.plots)


if __name__ == "__main__":
    main()
