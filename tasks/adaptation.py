"""Makes the artefacts behind the adaptation direction: the warm-up checkpoint, D_A, and low-rank forms of directions."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import adapters, identities
from tasks.adapters import Models
from tasks.artifacts import Artifacts, saved
from tasks.lowrank import check_agreement, low_rank_key, make
from tasks.runs import Run
from tasks.sequences import Sequence_, Snapshot
from tasks.settings import Configuration

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.batches import TokenBatch

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


def warm_up(
    run: Run, reference: Path, reference_digest: str, sequences: list[Sequence_], path: Path, report: Report
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


def make_adaptation(run: Run, models: Models, validation: Snapshot, path: Path) -> tuple[str, dict[str, Any]]:
    """Make D_A, the gradient of the loss on the validation set, and save it.

    Args:
        run: the run, whose configuration has scope, scaling and device.
        models: the scoring model and the reference.
        validation: the validation set.
        path: file to write.

    Returns:
        (content digest, details).
    """
    from models.directions import in_scope, scale_tensors
    from models.reference import resolve_device

    model = adapters.load_scoring(models.reference, models.scoring, resolve_device(run.config.model.device))
    settings = run.config.scoring.adaptation
    scope = in_scope(adapters.scope(model, models.scoring, run.config.scoring.scope_exclude), settings.scope_exclude, "scoring.adaptation")
    gradient, details = objective_gradient(run.config, models, model, validation, scope)
    return saved(scale_tensors(gradient, settings.scaling), {**details, **adapters.covered(model, models.scoring, scope)}, path)


def objective_gradient(
    config: Configuration, models: Models, model: "nn.Module", validation: Snapshot, scope: Sequence[str]
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Compute ∇_θ of the loss on the validation set: the mean over response tokens, or, where the examples are pairs, DPO's mean over pairs.

    Args:
        config: β, device and size of batches.
        models: the reference, which DPO compares with.
        model: the scoring model, loaded, float32.
        validation: the validation set.
        scope: names of the parameters to differentiate.

    Returns:
        (gradient per parameter, details: the loss in nats per token or pair, and over how many).
    """
    from models.batches import collate, plan_batches
    from models.directions import preference_gradient, validation_gradient
    from models.reference import resolve_device

    def batches(groups: Sequence[Sequence[Sequence_]]) -> "list[TokenBatch]":
        """Put groups of sequences into batches, all first ones before all second ones."""
        sizes = [(f"{i:09d}", len(group) * max(len(ids) for _, ids, _ in group)) for i, group in enumerate(groups)]
        chosen = ([groups[int(i)] for i in batch] for batch in plan_batches(sizes, config.scoring.batch_tokens))
        rows = ([one for members in zip(*batch, strict=True) for one in members] for batch in chosen)
        return [collate([ids for _, ids, _ in row], [positions for _, _, positions in row]) for row in rows]

    if not validation.pairs:
        gradient, loss = validation_gradient(model, batches([[one] for one in validation.sequences]), scope)
        return gradient, {"validation_loss": loss, "num_sequences": len(validation.sequences)}
    anchor = adapters.load_reference(models.reference, models.scoring, resolve_device(config.model.device))
    beta = config.preference.beta
    gradient, loss, accuracy = preference_gradient(model, anchor, batches(validation.pairs), scope, beta)
    told = {"objective": "dpo", "beta": beta, "validation_loss": loss, "margin_accuracy": accuracy, "num_pairs": len(validation.pairs)}
    return gradient, told


def low_rank_form(
    artifacts: Artifacts, run: Run, models: Models, name: str, dense: Path, made: dict[str, Any],
    training: Callable[[], list[Sequence_]],
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
