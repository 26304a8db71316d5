"""The parent flow of rounds: value, train a share of the steps, value again at the model that came out, train on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.train_masked import train_masked
from flows.value_tokens import value_tokens
from tasks.ranks import world_size
from tasks.settings import Configuration, load
from tasks.training import TrainingReceipt, num_steps, tell_if_rounds_are_alike
from warehouse.stream import open_stream


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: which, from 1.
        steps: its optimizer steps.
        training: what it trained, or found trained.
    """

    number: int
    steps: int
    training: TrainingReceipt


@flow(name="rounds", persist_result=False)
def rounds(config_path: str, overrides: Sequence[str] = (), num_rounds: int = 2, policy: str | None = None) -> list[Round]:
    """Alternate `value_tokens` and `train_masked`, each round from the model of the one before and with values taken at it.

    The rounds share the steps of one training, and its stream: a round sees the batches behind those of the round before. Optimizer and
    learning-rate schedule begin anew in each. A round is an ordinary scoring, mask, run and training: what is there is found by its
    receipt, so a killed run goes on where it was. One round is `value_tokens`, then `train_masked`.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        num_rounds: how many rounds.
        policy: whose mask; `training.policy` when absent.

    Returns:
        the rounds; the last one's checkpoint is the result.

    Raises:
        ValueError: there are fewer steps than rounds, or several processes.
    """
    config = load(Path(config_path), overrides)
    if num_rounds < 1 or world_size() > 1:
        raise ValueError(f"rounds: got {num_rounds} rounds in {world_size()} processes, expected 1 round at least, in one process")
    done: list[Round] = []
    for number in range(1, num_rounds + 1):
        own = [*overrides, *_going_on(config, done)]
        value_tokens(config_path, own)
        if number == 1 < num_rounds:
            tell_if_rounds_are_alike(config, policy)
        steps = _steps(config, policy, number, num_rounds)
        share = [] if num_rounds == 1 else [f"training.max_steps={steps}"]
        done.append(Round(number, steps, train_masked(config_path, [*own, *share], policy)))
    return done


def _going_on(config: Configuration, done: Sequence[Round]) -> list[str]:
    """Override what a round takes over from those before: the weights, and how far the stream was read."""
    if not done:
        return []
    seen = config.training.skip_batches + config.training.gradient_accumulation * sum(one.steps for one in done)
    return [
        f"model.scoring={json.dumps(_as_noted(config, done[-1].training.checkpoint))}",
        "training.start=scoring",
        f"training.skip_batches={seen}",
    ]


def _as_noted(config: Configuration, checkpoint: str) -> str:
    """Name a checkpoint as the view `trainings` does, so that SQL finds what a round began with."""
    path = Path(checkpoint)
    return str(path.relative_to(config.base)) if path.is_relative_to(config.base) else checkpoint


def _steps(config: Configuration, policy: str | None, number: int, num_rounds: int) -> int:
    """Share the steps of one training among the rounds, as evenly as whole steps go.

    Returns:
        steps of the round.

    Raises:
        ValueError: some round would have none.
    """
    settings = config.training
    stream = open_stream(
        config.warehouse_folder, policy or settings.policy, seed=settings.seed, batch_size=settings.batch_size, bucket_window=settings.bucket_window
    )  # fmt: skip
    total = num_steps(settings, stream.num_batches)
    if total < num_rounds:
        raise ValueError(
            f"a training has {total} steps, too few for {num_rounds} rounds; ask for fewer, or raise training.epochs or training.max_steps"
        )
    return total * number // num_rounds - total * (number - 1) // num_rounds
