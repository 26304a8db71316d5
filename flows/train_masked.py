"""The training flow: streams masked batches of the current release into a trainer; separate from valuation, reads releases only."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.artifacts import show_training
from flows.events import inherit_announcement
from tasks import training
from tasks.progress import Progress
from tasks.runs import Run
from tasks.settings import load
from tasks.stages import train
from warehouse.release import current_release


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
    read_from = current_release(run.config.warehouse_folder).folder
    with Progress() as progress:
        receipt = train(run, policy or run.config.training.policy, progress.steps)
    if receipt.trained:
        inherit_announcement(run.config.warehouse_folder, read_from)
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
