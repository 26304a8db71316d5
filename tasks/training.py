"""Fine-tuning on a mask of the current release, measured before and after; an unchanged training is skipped by its receipt."""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from models.files import resolve_folder
from models.settings import CODE_VERSIONS
from tasks import identities
from tasks.runs import Run
from tasks.settings import Configuration
from warehouse import runs, sql
from warehouse.connect import writer_lock
from warehouse.digests import digest
from warehouse.ingest import read_examples, read_texts
from warehouse.policies import mask_identity
from warehouse.read import Reader
from warehouse.release import Release, opened, write_release
from warehouse.stream import Cursor, MaskedStream
from warehouse.write import snapshot_identity, write_training

if TYPE_CHECKING:
    from models.batches import TokenBatch

logger = logging.getLogger("alphatoken")

WAIT_FOR_WRITER_S = 24 * 3600.0
"""How long a finished training waits to note its result while another run writes."""

_UNCOUNTED = {"output", "policy", "report_to", "save_steps"}
"""Training settings that do not change the trained model; the mask counts, not the name of its policy."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training depends on.

    Attributes:
        training_id: identity.
        mask_id: the mask.
        start: folder of the weights to start from.
        max_length: tokens of a sequence, for the retention text.
        evaluation: (token ids, response positions) of the evaluation sequences.
        retention: texts of the evaluation half of the retention text.
        settings: what training_id is the digest of.
        done: checkpoint of this very training if it ran before.
    """

    training_id: str
    mask_id: str
    start: Path
    max_length: int
    evaluation: list[tuple[list[int], list[int]]]
    retention: list[str]
    settings: dict[str, Any]
    done: Path | None


@dataclass(frozen=True)
class TrainingReceipt:
    """A training.

    Attributes:
        training_id: identity.
        policy: whose mask.
        checkpoint: folder of the trained model.
        trained: whether it ran now; False = skipped by its receipt.
        metrics: target_loss and retention_loss before and after (nats per token), supervised tokens and the like.
    """

    training_id: str
    policy: str
    checkpoint: str
    trained: bool
    metrics: dict[str, float]


def train(run: Run, policy: str, report: Callable[[str, int, int], None]) -> TrainingReceipt:
    """Fine-tune on the mask of a policy, from the current release.

    Args:
        run: the run.
        policy: name of the policy.
        report: told about progress.

    Returns:
        what was trained, or what was there.
    """
    with opened(run.config.warehouse_folder) as (con, release):
        plan = plan_training(run, con, release, policy)
        if plan.done is not None:
            metrics = con.execute(sql.load("training/final_metrics"), {"training_id": plan.training_id}).fetchall()
            return TrainingReceipt(plan.training_id, policy, str(plan.done), False, dict(metrics))
        settings = run.config.training
        stream = MaskedStream(con, plan.mask_id, batch_size=settings.batch_size, seed=settings.seed)
        checkpoint, metrics_at = _fit(run, plan, stream, policy, report)
        note_training(run, plan, policy, release, checkpoint, metrics_at)
    final = {f"{name}_before": value for (step, name), value in metrics_at.items() if step == 0}
    final |= {name: value for (step, name), value in metrics_at.items() if step > 0 and name != "train_loss"}
    return TrainingReceipt(plan.training_id, policy, str(checkpoint), True, final)


def plan_training(run: Run, con: duckdb.DuckDBPyConnection, release: Release, policy: str) -> TrainingPlan:
    """Identify a training from a release and look whether it is done.

    Args:
        run: the run.
        con: connection to the release.
        release: the release.
        policy: name of the policy.

    Returns:
        the plan.

    Raises:
        ValueError: the release does not fit the configuration: its mask, its evaluation set or the model to start from.
    """
    config, settings = run.config, run.config.training
    pointers = dict(con.execute(sql.load("release/pointers")).fetchall())
    mask_id = current_mask(config, pointers, policy)
    scoring = json.loads(con.execute(sql.load("training/scoring_settings"), {"mask_id": mask_id}).fetchall()[0][0])
    start_digest = scoring["scoring" if settings.start == "scoring" else "reference"]["digest"]
    start = _start_folder(run, con, start_digest)
    if identities.model_digest(Reader.over(con, release), start) != start_digest:
        raise ValueError(f"{start} is not the model that the release was made with; run `alphatoken value` first")
    evaluation = _evaluation(run, con, pointers) if config.data.evaluation is not None else []
    retention = retention_half(read_texts(config.data.retention, config.base), 1) if config.data.retention is not None else []
    retention = retention[: settings.evaluation_limit]
    tokenization = con.execute(sql.load("training/tokenization_settings"), {"tokenization_id": pointers["tokenization"]}).fetchall()
    max_length = int(json.loads(tokenization[0][0])["max_length"])
    counted = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _UNCOUNTED}
    described = {
        "mask": mask_id,
        "start": start_digest,
        "settings": counted,
        "evaluation": digest(evaluation),
        "retention": digest(retention),
        "max_length": max_length,
        "code_version": CODE_VERSIONS["train"],
    }
    training_id = digest("train", described)
    row = con.execute(sql.load("training/get_training"), {"training_id": training_id}).fetchone()
    done = config.base / row[0] if row is not None and (config.base / row[0] / "config.json").is_file() else None
    return TrainingPlan(training_id, mask_id, start, max_length, evaluation, retention, {**described, "policy": policy}, done)


def _start_folder(run: Run, con: duckdb.DuckDBPyConnection, start_digest: str) -> Path:
    """Find the folder of the weights: a warm-up among the artefacts, the given scoring model, or the reference."""
    config = run.config
    if config.training.start == "reference":
        return identities.reference_folder(config)
    row = con.execute(sql.load("training/get_warmup"), {"content_digest": start_digest}).fetchone()
    if row is not None:
        return config.warehouse_folder / str(row[0])
    return resolve_folder(config.model.scoring or config.model.reference, config.base, config.model.revision)


def current_mask(config: Configuration, pointers: Mapping[str, str], policy: str) -> str:
    """Find the mask of a policy as it is configured now, for the release's scoring and snapshot.

    Returns:
        mask_id.

    Raises:
        ValueError: the release has no such mask, or an older one.
    """
    settings, mask_id = config.policy_named(policy), pointers.get(f"mask:{policy}")
    if mask_id is None:
        known = sorted(name.removeprefix("mask:") for name in pointers if name.startswith("mask:"))
        raise ValueError(f"the release has no mask of policy {policy!r}, only {known}; run `alphatoken mask CONFIG --policy {policy}`")
    if mask_id != mask_identity(settings, pointers["scoring"], pointers["snapshot"]):
        raise ValueError(
            f"the release's mask of policy {policy!r} was made with other settings, values or data than the present ones; "
            f"run `alphatoken mask CONFIG --policy {policy}`"
        )
    return mask_id


def _evaluation(run: Run, con: duckdb.DuckDBPyConnection, pointers: Mapping[str, str]) -> list[tuple[list[int], list[int]]]:
    source, limit = run.config.data.evaluation, run.config.training.evaluation_limit
    assert source is not None, "asked for only where there is one"
    if pointers.get("evaluation") != snapshot_identity(read_examples(source, run.config.base)):
        state = "has no evaluation set" if "evaluation" not in pointers else "has another evaluation set"
        raise ValueError(f"the release {state}, but data.evaluation is configured; run `alphatoken value` first")
    rows = con.execute(
        sql.load("tokenize/fetch_sequences"), {"snapshot_id": pointers["evaluation"], "tokenization_id": pointers["tokenization"]}
    ).fetchall()
    return [(row[3], row[4]) for row in rows[:limit]]


def retention_half(texts: list[str], half: int) -> list[str]:
    """Split retention texts into two halves by content, so that neither depends on file order.

    Args:
        texts: distinct texts.
        half: 0 = the half for alignment, 1 = the half for evaluation.

    Returns:
        the texts of the half, in an order that depends on their contents alone.
    """
    keyed = sorted((hashlib.blake2b(text.encode(), digest_size=8).digest(), text) for text in texts)
    return [text for key, text in keyed if key[-1] % 2 == half]


class _Measure:
    """Measures target loss and retention loss of a model."""

    def __init__(self, run: Run, plan: TrainingPlan, tokenizer: Any) -> None:
        budget = run.config.scoring.batch_tokens
        self._target = _batches(plan.evaluation, budget)
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        encoded = tokenizer(plan.retention, add_special_tokens=False, verbose=False)["input_ids"] if plan.retention else []
        texts = [(start + ids)[: plan.max_length] for ids in encoded]
        self._retention = _batches([(ids, list(range(1, len(ids)))) for ids in texts if len(ids) > 1], budget)

    def __call__(self, model: Any) -> dict[str, float]:
        from models.losses import mean_token_loss

        measured = {}
        if self._target:
            measured["target_loss"] = mean_token_loss(model, self._target)[0]
        if self._retention:
            measured["retention_loss"] = mean_token_loss(model, self._retention)[0]
        return measured


def _batches(sequences: list[tuple[list[int], list[int]]], budget: int) -> "list[TokenBatch]":
    from models.batches import collate, plan_batches

    plan = plan_batches([(f"{i:09d}", len(ids)) for i, (ids, _) in enumerate(sequences)], budget)
    chosen = [[sequences[int(i)] for i in batch] for batch in plan]
    return [collate([ids for ids, _ in batch], [positions for _, positions in batch]) for batch in chosen]


def _fit(
    run: Run, plan: TrainingPlan, stream: MaskedStream, policy: str, report: Callable[[str, int, int], None]
) -> tuple[Path, dict[tuple[int, str], float]]:
    """Train and save.

    Returns:
        (folder of the trained model, value of each (step, metric)).
    """
    from transformers.trainer_callback import PrinterCallback

    from models.reference import load_model, load_tokenizer, resolve_device
    from models.trainer import MaskedTrainer, save_final, with_lora

    settings = run.config.training
    folder = (run.config.base / settings.output).resolve() / f"{policy}-{plan.training_id[:12]}"
    steps = settings.max_steps or math.ceil(settings.epochs * stream.num_batches / settings.gradient_accumulation)
    tokenizer = load_tokenizer(plan.start)
    measure = _Measure(run, plan, tokenizer)
    model: Any = load_model(plan.start, resolve_device(run.config.model.device)).requires_grad_(True)
    before = measure(model)
    if settings.lora is not None:
        lora = settings.lora
        model = with_lora(model, lora.rank, lora.alpha, lora.dropout, lora.target_modules, seed=settings.seed)
    trainer = MaskedTrainer(
        model, training_arguments(run, folder / "checkpoints", steps), _micro_batches(stream), stream.num_supervised_tokens, stream.num_batches,
        callbacks=[progress_callback(f"training ({policy})", report)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # the log goes to training_metrics, not to the terminal
    last = last_checkpoint(folder / "checkpoints")
    if last is not None:
        logger.warning("going on from %s", last)
    trainer.train(resume_from_checkpoint=last)
    metrics = {(0, name): value for name, value in before.items()}
    metrics |= {(entry["step"], "train_loss"): entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    metrics |= {(steps, name): value for name, value in measure(trainer.model).items()}
    per_epoch = stream.num_supervised_tokens
    metrics |= {(steps, "supervised_tokens_per_epoch"): float(per_epoch), (steps, "train_seconds"): _seconds(trainer)}
    save_final(trainer, tokenizer, folder / "model")
    return folder / "model", metrics


def last_checkpoint(folder: Path) -> str | None:
    """Find the last whole checkpoint: one that a kill cut short lacks trainer_state.json, which transformers writes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if whole else None


def _seconds(trainer: Any) -> float:
    return float(next((e["train_runtime"] for e in reversed(trainer.state.log_history) if "train_runtime" in e), 0.0))


def _micro_batches(stream: MaskedStream) -> Callable[[int], Iterator[dict[str, Any]]]:
    def batches(first: int) -> Iterator[dict[str, Any]]:
        for batch, _ in stream.batches(Cursor(*divmod(first, stream.num_batches))):
            yield {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "labels": batch.labels,
                "num_supervised": batch.num_supervised,
            }

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
        write_release(config.warehouse_folder, config.warehouse.keep_releases)
