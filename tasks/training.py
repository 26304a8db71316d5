"""Fine-tuning on a mask of the current release, measured before and after; an unchanged training is skipped by its receipt."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.training_settings import TrainingSettings
from tasks import identities
from tasks.adapters import load_start
from tasks.measures import Measure
from tasks.ranks import leave, rank, refuse_sharded, require_same, take_device, world_size
from tasks.runs import Run
from tasks.settings import Configuration
from tasks.training_plan import TrainingPlan, plan_training
from warehouse import runs
from warehouse.connect import writer_lock
from warehouse.holds import held
from warehouse.queries import Queries
from warehouse.read import Reader
from warehouse.release import Release, opened, write_release
from warehouse.stream import Cursor, MaskedStream
from warehouse.write import write_training

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger("alphatoken")

WAIT_FOR_WRITER_S = 24 * 3600.0
"""How long a finished training waits to note its result while another run writes."""

_SECONDS = "TrainSeconds"
"""Key of the seconds trained in the trainer's state, which is saved with every checkpoint."""


@dataclass(frozen=True)
class TrainingReceipt:
    """A training.

    Attributes:
        training_id: identity.
        policy: whose mask.
        checkpoint: folder of the trained model.
        trained: whether it ran now; False = skipped by its receipt.
        metrics: what `tasks/measures.py` measures before and after, supervised tokens and the like.
    """

    training_id: str
    policy: str
    checkpoint: str
    trained: bool
    metrics: dict[str, float]


def train(run: Run, policy: str, report: Callable[[str, int, int], None], *, keep_model: bool = True) -> TrainingReceipt:
    """Fine-tune on the mask of a policy, from the current release; of several processes each takes its share of every batch.

    Args:
        run: the run.
        policy: name of the policy.
        report: told about progress.
        keep_model: whether the trained model stays on disk. Where not, a training whose figures are noted is not done again either.

    Returns:
        what was trained, or what was there.

    Raises:
        ValueError: the release does not fit the configuration, the mask not the loss, weights were to be sharded over processes, or these
            do not agree on the training.
    """
    refuse_sharded()
    take_device(run.config.model)
    with opened(run.config.warehouse_folder) as (con, release):
        plan = plan_training(run, Queries(con), policy)
        is_done = plan.done is not None or (plan.is_noted and not keep_model)
        what = f"has training {plan.training_id[:12]} {'behind' if is_done else 'before'} it, from release {release.release_id}"
        require_same(what, run.config.model)
        if is_done:
            leave()
            metrics = Queries(con).run("training/final_metrics", training_id=plan.training_id).fetchall()
            return TrainingReceipt(plan.training_id, policy, str(plan.done or "not kept"), False, dict(metrics))
        checkpoint, metrics_at = _fit(run, plan, _stream(run, con, plan, policy, release), policy, report)
        leave()  # before the first waits for the writer's lock, for which the others have no patience
        if rank() == 0:
            note_training(run, plan, policy, release, checkpoint, metrics_at)
            if not keep_model:
                shutil.rmtree(checkpoint.parent)
    final = {f"{name}_before": value for (step, name), value in metrics_at.items() if step == 0}
    final |= {name: value for (step, name), value in metrics_at.items() if step > 0 and (name == "train_seconds" or name[:6] != "train_")}
    return TrainingReceipt(plan.training_id, policy, str(checkpoint), True, final)


def _stream(run: Run, con: "DuckDBPyConnection", plan: TrainingPlan, policy: str, release: Release) -> MaskedStream:
    """Open this process's share of the masked batches.

    Returns:
        the stream.

    Raises:
        ValueError: the mask does not fit the loss.
    """
    settings = run.config.training
    stream = MaskedStream(
        con, plan.mask_id, batch_size=settings.batch_size, bucket_window=settings.bucket_window, seed=settings.seed, rank=rank(),
        world_size=world_size(), release_folder=release.folder,
    )  # fmt: skip
    if stream.has_pairs and run.config.preference.loss == "dpo" and not stream.keeps_every_token:
        raise ValueError(
            f"preference.loss is 'dpo', which learns from every response token, but the mask of policy {policy!r} leaves some out or weighs "
            "them; train with `--policy full`, or set preference.loss to token_weighted or masked_margin"
        )
    return stream


def num_steps(settings: TrainingSettings, num_batches: int) -> int:
    """Count the optimizer steps of a training whose stream has so many batches per epoch."""
    return settings.max_steps or math.ceil(settings.epochs * num_batches / settings.gradient_accumulation)


def _fit(
    run: Run, plan: TrainingPlan, stream: MaskedStream, policy: str, report: Callable[[str, int, int], None]
) -> tuple[Path, dict[tuple[int, str], float]]:
    """Train and save.

    Returns:
        (folder of the trained model, value of each (step, metric)).
    """
    from transformers.trainer_callback import PrinterCallback

    from models.preference_trainer import PAIR_MEANS, TOKEN_SHARES
    from models.reference import resolve_device
    from models.trainer import save_final, with_lora

    settings = run.config.training
    folder = (run.config.base / settings.output).resolve() / f"{policy}-{plan.training_id[:12]}"
    steps = num_steps(settings, stream.num_batches)
    model: Any
    model, tokenizer = load_start(identities.reference_folder(run.config), plan.start, resolve_device(run.config.model.device))
    model.requires_grad_(True)
    measure = Measure(run, plan, tokenizer)
    if measure.needs_reference:
        measure.set_reference(model if plan.start == identities.reference_folder(run.config) else _load_reference(run))
    before = measure(model)
    if settings.lora is not None:
        lora = settings.lora
        model = with_lora(model, lora.rank, lora.alpha, lora.dropout, lora.target_modules, seed=settings.seed)
    arguments = training_arguments(run, folder / "checkpoints", steps)
    trainer = _trainer(run, stream, model, arguments, [seconds_callback(), progress_callback(f"training ({policy})", report)])
    trainer.remove_callback(PrinterCallback)  # the log goes to training_metrics, not to the terminal
    last = last_checkpoint(folder / "checkpoints")
    if last is not None:
        logger.warning("going on from %s", last)
    trainer.train(resume_from_checkpoint=last)
    metrics = {(0, name): value for name, value in before.items()}
    logged = {"loss", *PAIR_MEANS, *TOKEN_SHARES}
    metrics |= {
        (entry["step"], f"train_{name}"): entry[name] for entry in trainer.state.log_history for name in sorted(logged & set(entry))
    }
    metrics |= {(steps, name): value for name, value in measure(trainer.model).items()}
    per_epoch = stream.num_supervised_tokens
    metrics |= {(steps, "supervised_tokens_per_epoch"): float(per_epoch), (steps, "train_seconds"): _seconds(trainer.state)}
    save_final(trainer, tokenizer, folder / "model")
    return folder / "model", metrics


def _load_reference(run: Run) -> Any:
    """Load the reference for a moment, where training does not start from it."""
    from models.reference import load_model, resolve_device

    return load_model(identities.reference_folder(run.config), resolve_device(run.config.model.device))


def _trainer(run: Run, stream: MaskedStream, model: Any, arguments: Any, callbacks: list[Any]) -> Any:
    """Make the trainer that the kind of data asks for."""
    from models.preference_trainer import PreferenceTrainer
    from models.trainer import MaskedTrainer

    common = (model, arguments, _micro_batches(stream), stream.num_supervised_tokens, stream.num_batches)
    first = run.config.training.skip_batches
    if stream.has_pairs:
        return PreferenceTrainer(*common, run.config.preference, first_batch=first, callbacks=callbacks)
    return MaskedTrainer(*common, first_batch=first, callbacks=callbacks)


def last_checkpoint(folder: Path) -> str | None:
    """Find the last whole checkpoint: one that a kill cut short lacks trainer_state.json, which transformers writes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if whole else None


def _seconds(state: Any) -> float:
    """Read how long a training has run, by its trainer's state: the stretches before its checkpoint counted in."""
    return float(state.stateful_callbacks.get(_SECONDS, {}).get("attributes", {}).get("seconds", 0.0))


def _micro_batches(stream: MaskedStream) -> Callable[[int], Iterator[dict[str, Any]]]:
    def batches(first: int) -> Iterator[dict[str, Any]]:
        for batch, _ in stream.batches(Cursor(*divmod(first, stream.num_batches))):
            yield batch.tensors()

    return batches


def training_arguments(run: Run, folder: Path, steps: int) -> Any:
    """Translate the settings into those of transformers."""
    from transformers import TrainingArguments

    from models.reference import resolve_device

    settings = run.config.training
    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation, learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule, warmup_steps=settings.warmup_steps, weight_decay=settings.weight_decay,
        bf16=settings.dtype == "bfloat16", seed=settings.seed, save_steps=settings.save_steps, save_total_limit=2,
        save_strategy="steps", logging_steps=max(1, steps // 20), logging_first_step=True, logging_nan_inf_filter=False, disable_tqdm=True, ignore_data_skip=True,
        report_to=list(settings.report_to) or "none", use_cpu=resolve_device(run.config.model.device).type == "cpu",
        log_level="error", remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip


def tell_if_rounds_are_alike(config: Configuration, policy: str | None) -> None:
    """Warn where rounds value tokens in vain: the policy reads nothing that changes with the scoring model."""
    name = policy or config.training.policy
    with Reader(config.warehouse_folder) as reader:
        has_pairs = reader.one("ingest/current_kind") == ("preference",)
    if set().union(*(part.stored_columns() for _, part in config.policy_named(name).parts(has_pairs=has_pairs))) <= {"ref_loss"}:
        logger.warning(
            "policy %r reads no value of the scoring model, so its mask is the same in every round; name another one with --policy", name
        )


def seconds_callback() -> Any:
    """Make a callback of transformers that adds up how long a training runs, in its state, so that a resumed one goes on counting."""
    from transformers import TrainerCallback

    class Count(TrainerCallback):  # type: ignore[misc]  # transformers ships without usable types
        """Counts seconds."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Take over what the checkpoint says."""
            self._began = time.monotonic() - _seconds(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Note the seconds, before a checkpoint is written."""
            state.stateful_callbacks[_SECONDS] = {"args": {}, "attributes": {"seconds": time.monotonic() - self._began}}

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Count the last checkpoint in."""
            self.on_step_end(args, state, control)

    return Count()


def progress_callback(what: str, report: Callable[[str, int, int], None]) -> Any:
    """Make a callback of transformers that tells about steps and keeps its log off the terminal."""
    from transformers import TrainerCallback

    class Tell(TrainerCallback):  # type: ignore[misc]  # transformers ships without usable types
        """Tells about every step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Report the step."""
            report(what, state.global_step, state.max_steps)

    return Tell()


def note_training(
    run: Run, plan: TrainingPlan, policy: str, release: Release, checkpoint: Path, metrics: dict[tuple[int, str], float]
) -> None:
    """Write a training with its metrics and its receipt, end the run, and release it all; waits while another run writes."""
    config = run.config
    settings = json.dumps(plan.settings, sort_keys=True)
    place = checkpoint.relative_to(config.base) if checkpoint.is_relative_to(config.base) else checkpoint
    with writer_lock(config.warehouse_folder, WAIT_FOR_WRITER_S, f"result of training {policy}"):
        with run.open() as warehouse:
            write_training(
                warehouse, plan.training_id, policy, plan.mask_id, release.release_id, settings, str(place),
                [(step, name, value) for (step, name), value in sorted(metrics.items())], run.run_id,
            )  # fmt: skip
            runs.finish(warehouse, run.run_id, "completed", {"steps": max(step for step, _ in metrics)}, None)
        write_release(config.warehouse_folder, config.warehouse.keep_releases, brings_data=False)
    if (reason := held(config.warehouse_folder)) is not None:
        logger.warning("the training is noted and comes with the next release, which is kept back: %s", reason)
