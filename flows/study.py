"""The flow of a study: values once, then every policy at every learning rate with every seed, and what came out."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.artifacts import show_study
from flows.value_tokens import value_tokens
from reports.frontier import Arm, Point
from reports.study import Study
from tasks.progress import Progress
from tasks.runs import Run
from tasks.settings import Configuration, load
from tasks.stages import train
from warehouse.read import Reader

FULL = "full"
"""The policy that keeps every token, whose trainings draw the frontier."""


@flow(name="study", persist_result=False)
def study(config_path: str, overrides: Sequence[str] = ()) -> Study:
    """Compare masks with what costs nothing, at equal steps: training on every token at several learning rates, and random masks.

    A training whose figures are in the warehouse is not done again, so a study that was killed, or got another seed, goes on.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.

    Returns:
        what was measured.

    Raises:
        ValueError: the configuration has no data to measure both losses by, or names unknown policies.
    """
    config = load(Path(config_path), overrides)
    if config.data.evaluation is None or config.data.retention is None:
        raise ValueError("a study measures target and retention loss; set data.evaluation and data.retention in the configuration")
    policies = policies_of(config)
    began = time.monotonic()
    valued = value_tokens(config_path, overrides)
    seconds = time.monotonic() - began if valued.wrote_release else 0.0
    shares = _kept_shares(config)
    arms, before, durations = [], None, []
    plans = list(variants(config, policies))
    with Progress() as progress:
        for number, (policy, variant) in enumerate(plans):
            progress.steps("study: trainings", number, len(plans))
            receipt = train(Run.begin("study", variant), policy, progress.steps, keep_model=config.study.keep_models)
            before = losses(receipt.metrics, "_before")
            durations.append(receipt.metrics["train_seconds"])
            rate, seed = variant.training.learning_rate, variant.training.seed
            arms.append(Arm(policy, rate, seed, *losses(receipt.metrics), shares[policy]))
    assert before is not None, "a study has one training at least"
    controls = tuple(name for name in policies if config.policy_named(name).select == "random")
    done = Study(before, tuple(arms), seconds, statistics.median(durations), controls)
    show_study(done)
    return done


def policies_of(config: Configuration) -> list[str]:
    """Return the policies that a study compares, the one that draws the frontier first."""
    named = config.study.policies or tuple(config.policies())
    for name in named:
        config.policy_named(name)
    return list(dict.fromkeys((FULL, *named)))


def variants(config: Configuration, policies: Sequence[str]) -> Iterator[tuple[str, Configuration]]:
    """Go through the trainings of a study, seed by seed, so that an interrupted one has whole seeds.

    Yields:
        (policy, the configuration with learning rate and seed).
    """
    own = config.training.learning_rate
    for seed in config.study.seeds:
        for policy in policies:
            for rate in config.study.learning_rates or (own, own / 2, own / 4):
                yield policy, replace(config, training=replace(config.training, learning_rate=rate, seed=seed))


def losses(metrics: Mapping[str, float], suffix: str = "") -> Point:
    """Pick the two axes out of a training's metrics: loss on evaluation data (of pairs: DPO's), loss on the retention text."""
    target = "target_loss" if f"target_loss{suffix}" in metrics else "dpo_loss"
    return (metrics[f"{target}{suffix}"], metrics[f"retention_loss{suffix}"])


def _kept_shares(config: Configuration) -> dict[str, float]:
    with Reader(config.warehouse_folder) as reader:
        return dict(reader.sql("SELECT policy, kept_share FROM masks WHERE is_current").rows())
