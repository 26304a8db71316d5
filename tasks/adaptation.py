"""Makes the artefacts behind the adaptation direction: the warm-up checkpoint, D_A, and low-rank forms of directions."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import adapters, identities
from tasks.adapters import Models
from tasks.artifacts import Artifacts, saved
from tasks.lowrank import check_agreement, low_rank_key, make
from tasks.runs import Run

if TYPE_CHECKING:
    from torch import nn

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


def warm_up(
    run: Run, reference: Path, reference_digest: str, sequences: list[tuple[str, list[int], list[int]]], path: Path, report: Report
) -> tuple[str, dict[str, Any]]:
    """Train the warm-up checkpoint and save it with its tokenizer.

    Args:
        run: the run, whose configuration says how.
        reference: folder of the reference model.
        reference_digest: its digest.
        sequences: (sequence_id, token ids, response positions) to train on.
        path: folder to write.
        report: told about progress.

    Returns:
        (digest of the scoring model, details: steps and mean loss at the end, nats per token).

    Raises:
        ValueError: the loss is not finite.
    """
    from models.reference import load_tokenizer
    from models.training import fit

    settings = run.config.scoring.warmup
    losses: list[float] = []

    def progress(done: int, steps: int, loss: float) -> None:
        losses.append(loss)
        report("warm-up", done, steps)

    model, trainable = adapters.load_for_warm_up(run, reference)
    fit(model, [s[1:] for s in sequences], settings, progress, trainable=trainable)
    if not math.isfinite(losses[-1]):
        raise ValueError(
            f"the warm-up diverged (loss {losses[-1]} at its end); lower scoring.warmup.learning_rate, now {settings.learning_rate}"
        )
    adapters.save_warm_up(run, model, path)
    load_tokenizer(reference).save_pretrained(path)
    tail = losses[-max(1, len(losses) // 10) :]
    return identities.unremembered_scoring_digest(path, reference_digest), {
        "steps": settings.steps,
        "final_train_loss": sum(tail) / len(tail),
    }


def make_adaptation(run: Run, models: Models, validation: list[tuple[str, list[int], list[int]]], path: Path) -> tuple[str, dict[str, Any]]:
    """Make D_A, the gradient of the mean loss over the response tokens of the validation set, and save it.

    Args:
        run: the run, whose configuration has scope, scaling and device.
        models: the scoring model.
        validation: (sequence_id, token ids, response positions) of each validation sequence.
        path: file to write.

    Returns:
        (content digest, details).
    """
    from models.batches import collate, plan_batches
    from models.directions import in_scope, scale_tensors, validation_gradient
    from models.reference import resolve_device

    model = adapters.load_scoring(models.reference, models.scoring, resolve_device(run.config.model.device))
    by_id = {s: (ids, positions) for s, ids, positions in validation}
    plan = plan_batches([(s, len(ids)) for s, (ids, _) in by_id.items()], run.config.scoring.batch_tokens)
    settings = run.config.scoring.adaptation
    scope = in_scope(adapters.scope(model, models.scoring, run.config.scoring.scope_exclude), settings.scope_exclude, "scoring.adaptation")
    batches = [collate([by_id[s][0] for s in batch], [by_id[s][1] for s in batch]) for batch in plan]
    gradient, loss = validation_gradient(model, batches, scope)
    details = {"validation_loss": loss, "num_sequences": len(validation), **adapters.covered(model, models.scoring, scope)}
    return saved(scale_tensors(gradient, settings.scaling), details, path)


def low_rank_form(
    artifacts: Artifacts, run: Run, models: Models, name: str, dense: Path, made: dict[str, Any],
    training: Callable[[], list[tuple[str, list[int], list[int]]]],
) -> Path:  # fmt: skip
    """Make or find the low-rank form of a direction where the settings ask for one, and note it in the direction's entry.

    Returns:
        the file that is valued against.
    """
    settings = run.config.scoring.low_rank
    if settings is None:
        return dense

    def load() -> "nn.Module":
        from models.reference import resolve_device

        return adapters.load_scoring(models.reference, models.scoring, resolve_device(run.config.model.device))

    def form(path: Path) -> tuple[str, dict[str, Any]]:
        sample = [(ids, positions) for _, ids, positions in training() if max(positions, default=0) > 0][: settings.num_sequences]
        return make(dense, path, settings, load, sample)

    digest_, path, details = artifacts.get(f"{name}_low_rank", low_rank_key(settings, made["digest"]), dataclasses.asdict(settings), form)
    check_agreement(details, settings)
    made |= {"dense_digest": made["digest"], "digest": digest_, "low_rank": details}
    return path
