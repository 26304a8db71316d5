"""The training flow: streams masked batches of the current release into a trainer; separate from valuation, reads releases only."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.artifacts import show_training
from tasks import training
from tasks.progress import Progress
from tasks.runs import Run
from tasks.settings import load
from tasks.stages import train


@flow(name="train_masked", persist_result=False)
def train_masked(config_path: str, overrides: Sequence[str] = (), policy: str | None = None) -> training.TrainingReceipt:
    """Fine-tune on a mask and measure target and retention loss before and after.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        policy: whose mask; `training.policy` when absent.

    Returns:
        what was trained, or what was there already.
    """
    run = Run.begin("train_masked", load(Path(config_path), overrides))
    with Progress() as progress:
        receipt = train(run, policy or run.config.training.policy, progress.steps)
    show_training(run, receipt)
    return receipt


def join_training(config_path: str, overrides: Sequence[str] = (), policy: str | None = None) -> None:
    """Take part in a training that another process leads: a rank behind the first, which neither writes nor talks to Prefect.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        policy: whose mask; `training.policy` when absent.
    """
    run = Run.begin("train_masked", load(Path(config_path), overrides))
    training.train(run, policy or run.config.training.policy, lambda *_: None)
