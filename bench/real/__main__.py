"""Masks on stories260K and TinyStories-656K, with GSM8K, MBPP and PubMedQA as targets and stories as what must not be forgotten.

python -m bench.real --out rows.jsonl                                  # a small part: one model, clean and corrupted, 15 minutes on one core
python -m bench.real --models stories260K TinyStories-656K --regimes competent novice --arms all --out rows.jsonl   # hours
python -m bench.real --read rows.jsonl --svg plots                     # tables and plots of earlier runs

Values and masks are the product's: every cell is a folder with a configuration of its own, valued by the flow `value_tokens`, and arms are the
policies of examples/baselines.yaml. `--out` appends every measurement to a file; those that it holds already are not made again. Models and
data are read from ../shared/real, or from ALPHATOKEN_REAL.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measurements import Row, add, earlier
from bench.real import arms as selection
from bench.real.data import CONDITIONS, FILES, LENGTHS, REAL, Example, Split, corrupted, read, split
from bench.real.report import print_report
from bench.real.training import base_folder, batches_of, measure, story_sequences, tokenized, train
from bench.real.values import BASELINES, Valued, configuration, value
from models.reference import load_model, load_tokenizer
from models.settings import WarmupSettings
from tasks.quiet import configure

CORE = ("full", "random", "oracle", "default", "random_like_default", "four_zscores", "causal_minus_ref_dataset")
FURTHER = (
    "position_matched", "causal_minus_ref_pooled", "adapt_direct", "adapt_causal", "low_loss", "high_loss", "loss_fall", "four_ranks_soft",
    "four_zscores_keep_90", "rho1", "dft", "paper",
)  # fmt: skip
REGIMES = ("competent", "novice")
RATES = {("stories260K", "competent"): (1e-3, 5e-4, 2.5e-4), ("TinyStories-656K", "competent"): (2e-3, 1e-3, 5e-4)}
"""Peak learning rates by model and regime: where training on every clean token learns most, half and a quarter of it."""

NOVICE_RATES = (4e-3, 2e-3, 1e-3)
MID_TRAINING_STEPS = 300
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cell:
    """One set of trainings.

    Attributes:
        model: name of the published model.
        data: the target data.
        regime: what the base knows of the target: `novice`, nothing; `competent`, it was mid-trained on other clean rows.
        condition: what is done to the training rows, one of `CONDITIONS`.
        seed: of every choice: rows, damage, warm-up, order, chance.
    """

    model: str
    data: str
    regime: str
    condition: str
    seed: int

    def key(self, *more: object) -> str:
        """Name the cell, or a measurement in it."""
        return " | ".join(map(str, (self.model, self.data, self.regime, self.condition, self.seed, *more)))


class Bench:
    """What is measured in a cell."""

    def __init__(self, cell: Cell, args: argparse.Namespace) -> None:
        self.cell, self.args = cell, args
        self.rates = RATES.get((cell.model, cell.regime), NOVICE_RATES)
        tokenizer, longest = load_tokenizer(REAL / "models" / cell.model), LENGTHS[cell.model]
        self.split: Split = split(read(cell.data), tokenizer, longest, args.rows, cell.seed)
        self.base = base_folder(cell.model, cell.data, self.split.prior, cell.regime, MID_TRAINING_STEPS, args.cache / "bases")
        self.train: list[Example] = corrupted(self.split.train, cell.condition, cell.seed)
        self.clean = tokenized(self.split.prior[: 8 * 16], tokenizer, longest)
        self.target = batches_of(tokenized(self.split.evaluation, tokenizer, longest))
        self.retention = batches_of(story_sequences(tokenizer, longest, measured=True))

    def value(self, estimator: str = "exact") -> Valued:
        """Value the training rows."""
        name = self.cell.key().replace(" | ", "-") + ("" if estimator == "exact" else "-propagation")
        config = configuration(self.cell.model, self.base.resolve(), self.rates[1], self.cell.seed)
        return value(self.args.cache / "cells" / name, config, self.split, self.train, estimator=estimator)

    def model(self) -> Any:
        """Load the base."""
        return load_model(self.base, CPU)

    def steps(self, learning_rate: float, steps: int | None = None) -> WarmupSettings:
        """Settings of a training: one pass in batches of 8, unless told otherwise."""
        return WarmupSettings(steps=steps or len(self.train) // 8, batch_size=8, learning_rate=learning_rate, seed=self.cell.seed)

    def rows(self, done: set[str]) -> Iterator[Row]:
        """Measure every arm at every learning rate that is not done."""
        cell, wanted = self.cell, self.args.arms
        plan = [(arm, rate) for arm in wanted for rate in self.rates if not (arm == "oracle" and cell.condition == "clean")]
        missing = [(arm, rate) for arm, rate in plan if cell.key(arm, rate) not in done]
        described = {"model": cell.model, "data": cell.data, "regime": cell.regime, "condition": cell.condition, "seed": cell.seed}
        if cell.key("before") not in done:
            target, kept = measure(self.model(), self.target, self.retention)
            yield {"key": cell.key("before"), **described, "arm": "before", "target": target, "retention": kept}
        if not missing and (cell.condition == "clean" or cell.key("auroc", "rho1" in wanted) in done):
            return
        valued = self.value()
        needs = {arm for arm, _ in missing}
        wants_excess = "rho1" in needs or (cell.condition != "clean" and "rho1" in wanted)
        excess = selection.excess_loss(valued, self.model(), self.clean, self.steps(self.rates[0], 40)) if wants_excess else None
        paper = self.value("value_propagation") if "paper" in needs else None
        if cell.condition != "clean" and cell.key("auroc", excess is not None) not in done:
            found = selection.aurocs(valued, [one.kind for one in self.train], excess)
            yield {"key": cell.key("auroc", excess is not None), **described, "arm": "auroc", "auroc": found, "seconds": valued.seconds}
        for arm, rate in missing:
            weights = selection.weights_of(arm, valued, paper, excess, cell.seed)
            began = time.process_time()
            model = train(self.model(), valued.sequences, weights, self.steps(rate), by_probability=arm == "dft")
            seconds = time.process_time() - began
            target, kept = measure(model, self.target, self.retention)
            flat = [w for row in weights for w in row]
            yield {
                "key": cell.key(arm, rate), **described, "arm": arm, "rate": rate, "target": target, "retention": kept,
                "kept": sum(w > 0 for w in flat) / len(flat), "train_cpu_s": seconds, "value_s": sum(valued.seconds.values()),
                "paper_s": sum(paper.seconds.values()) if arm == "paper" and paper is not None else None,
            }  # fmt: skip


def measured(args: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Go through the cells, seed by seed."""
    for data, regime, condition, model, seed in itertools.product(args.data, args.regimes, args.conditions, args.models, args.seeds):
        yield from Bench(Cell(model, data, regime, condition, seed), args).rows(done)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["TinyStories-656K"], choices=list(LENGTHS))
    parser.add_argument("--data", nargs="+", default=["gsm8k"], choices=list(FILES))
    parser.add_argument("--regimes", nargs="+", default=["competent"], choices=REGIMES)
    parser.add_argument("--conditions", nargs="+", default=["spans", "clean"], choices=list(CONDITIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["core"],
        help=f"core ({', '.join(CORE)}), all, none (AUROC alone), or names: policies of {BASELINES.name} too",
    )
    parser.add_argument("--rows", type=int, default=384, help="training rows, one pass over them in batches of 8")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "alphatoken" / "real", help="bases, and a warehouse per cell"
    )
    parser.add_argument("--out", type=Path, help="JSON lines of measurements")
    parser.add_argument("--read", type=Path, nargs="+", help="print the tables of earlier measurements")
    parser.add_argument("--svg", type=Path, help="folder for the plots")
    args = parser.parse_args()
    named: dict[str, tuple[str, ...]] = {"none": (), "core": CORE, "further": FURTHER, "all": (*CORE, *FURTHER)}
    args.arms = list(dict.fromkeys(arm for name in args.arms for arm in named.get(name, (name,))))
    args.cache = args.cache.resolve()
    return args


def main() -> None:
    """Measure, and print the tables."""
    args = _arguments()
    rows = earlier(args.read, args.out)
    if args.read is None:
        configure()
        torch.set_num_threads(1)
        add(rows, measured(args, {row["key"] for row in rows}), args.out)
    print_report(rows, args.svg)


if __name__ == "__main__":
    main()
