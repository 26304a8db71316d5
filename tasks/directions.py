"""Pinned artefacts of a scoring: warm-up checkpoint, Fisher, D_A and D_S. Made once, saved, then identified by their content."""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.adapter_files import is_adapter
from models.files import resolve_folder, weight_files
from tasks import adapters, identities, propagation
from tasks.runs import Run
from warehouse.connect import Warehouse
from warehouse.write import ValueIdentities

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alphatoken")

STABILITY_IS_ZERO = (
    "the scoring model is the reference itself, so the drift θ − θ_ref is zero and with it every stability value; "
    "set scoring.warmup.steps above 0, or give a checkpoint as model.scoring"
)

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


@dataclass(frozen=True)
class ScoringSetup:
    """What a scoring runs on.

    Attributes:
        ids: identities of the four groups of values.
        reference: folder of the reference model.
        scoring: folder of the scoring model.
        adapt: file of D_A.
        stab: file of D_S.
        described: what the identities are digests of, for the `scorings` table.
        stability_is_zero: whether D_S is zero, as at θ = θ_ref.
        num_made: artefacts made now; 0 when all were there.
    """

    ids: ValueIdentities
    reference: Path
    scoring: Path
    adapt: Path
    stab: Path
    described: dict[str, Any]
    stability_is_zero: bool
    num_made: int

    @property
    def coverage(self) -> str | None:
        """What directions over adapters cover, in a sentence; None where whole models are scored."""
        return adapters.coverage_text(self.described)


class Artifacts:
    """Pinned artefacts of one run: looked up by key, made where missing or where a refresh asks for it."""

    def __init__(self, warehouse: Warehouse, run: Run, snapshot_id: str, *, refresh: bool) -> None:
        """Open the artefacts of a warehouse.

        Args:
            warehouse: the open warehouse.
            run: the run.
            snapshot_id: training snapshot that newly made artefacts are noted with.
            refresh: make everything anew.
        """
        self._warehouse = warehouse
        self._run = run
        self._snapshot_id = snapshot_id
        self._refresh = refresh
        self._folder = warehouse.folder / "artifacts"
        self.num_made = 0

    def get(
        self, kind: str, key: str, settings: Mapping[str, Any], make: Callable[[Path], tuple[str, dict[str, Any]]]
    ) -> tuple[str, Path, Any]:
        """Return an artefact, making it first where it is missing.

        Args:
            kind: warmup, fisher, adapt or stab.
            key: identity of what it is made of (not of the training snapshot).
            settings: what the key is the digest of.
            make: writes the artefact to a path and returns (content digest, details).

        Returns:
            (content digest, path, details).
        """
        row = self._warehouse.one("artifacts/get_artifact", artifact_key=key)
        if row is not None and not self._refresh:
            path = self._warehouse.folder / row[1]
            if path.exists():
                return str(row[0]), path, json.loads(row[2])
            logger.warning("the %s at %s is gone; making it again, which may change every value that depends on it", kind, path)
        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = "" if kind == "warmup" else ".safetensors"
        fresh = self._folder / f".{kind}-partial{suffix}"
        shutil.rmtree(fresh, ignore_errors=True)  # what a killed run left
        content, details = make(fresh)
        path = self._folder / f"{kind}-{content[:16]}{suffix}"
        _settle(fresh, path)
        with self._warehouse.transaction():
            self._warehouse.run("artifacts/delete_artifact", artifact_key=key)
            self._warehouse.run(
                "artifacts/insert_artifact",
                artifact_key=key, kind=kind, content_digest=content, path=str(path.relative_to(self._warehouse.folder)),
                settings=json.dumps(settings, sort_keys=True), details=json.dumps(details), snapshot_id=self._snapshot_id, run_id=self._run.run_id,
            )  # fmt: skip
        self.num_made += 1
        return content, path, details


def _settle(fresh: Path, path: Path) -> None:
    """Move a finished artefact to the name of its content; the same content may be there already."""
    if path.is_dir():
        shutil.rmtree(fresh)
    else:
        fresh.replace(path)


def prepare(warehouse: Warehouse, run: Run, snapshot_id: str, validation_id: str, report: Report, *, refresh: bool) -> ScoringSetup:
    """Make or find everything a scoring needs and identify its values.

    Args:
        warehouse: the open warehouse.
        run: the run.
        snapshot_id: the training snapshot.
        validation_id: the validation snapshot.
        report: told about progress.
        refresh: remake warm-up, Fisher and directions on the present data.

    Returns:
        the setup.

    Raises:
        ValueError: no validation example is usable.
    """
    config = run.config
    tokenization_id = identities.tokenization(warehouse, config).tokenization_id
    reference = identities.reference_folder(config)
    check_weights(reference)
    reference_digest = identities.model_digest(warehouse, reference)
    given = config.model.scoring and resolve_folder(config.model.scoring, config.base, config.model.revision, adapters=True)
    adapters.check_quantised(config, reference, given or None)
    artifacts = Artifacts(warehouse, run, snapshot_id, refresh=refresh)
    sequences = Sequences(warehouse, tokenization_id)
    propagation.check_models(config, reference, given or None)
    if given:
        scoring = given
        check_weights(scoring)
        if is_adapter(scoring):
            adapters.check_scoring(warehouse, config, reference, scoring)
        else:
            check_same_shape(reference, scoring)
        scoring_digest = identities.scoring_digest(warehouse, scoring, reference_digest)
    elif config.scoring.warmup.steps == 0:
        scoring, scoring_digest = reference, reference_digest
    else:
        key = identities.warmup_key(config, reference_digest, tokenization_id)
        _, scoring, _ = artifacts.get(
            "warmup",
            key,
            dataclasses.asdict(config.scoring.warmup),
            lambda path: _warm_up(run, reference, reference_digest, sequences.of(snapshot_id), path, report),
        )
        scoring_digest = identities.scoring_digest(warehouse, scoring, reference_digest)
    validation = sequences.of(validation_id)
    if not validation:
        raise ValueError("the validation set has no usable example; check data.validation and the table rejected_rows")
    exclude = config.scoring.scope_exclude
    if config.scoring.estimator == "value_propagation":
        models = propagation.Models(reference, reference_digest, scoring, scoring_digest)
        adapt, stab, made = propagation.make_directions(
            config, models, tokenization_id, lambda: sequences.of(snapshot_id), validation, artifacts.get, _saved, report
        )
    else:
        fisher_digest, fisher, fisher_details = artifacts.get(
            "fisher", identities.fisher_key(config, scoring_digest if is_adapter(scoring) else reference_digest),
            dataclasses.asdict(config.scoring.fisher),
            lambda path: _fisher(run, reference, scoring, path, report),
        )  # fmt: skip
        adapt_digest, adapt, adapt_details = artifacts.get(
            "adapt", identities.adapt_key(config, scoring_digest, [s for s, _, _ in validation]), {"scope_exclude": exclude},
            lambda path: _adapt(run, reference, scoring, validation, path),
        )  # fmt: skip
        stab_digest, stab, stab_details = artifacts.get(
            "stab", identities.stab_key(fisher_digest, scoring_digest, reference_digest), {"scope_exclude": exclude},
            lambda path: _stab(run, scoring, reference, fisher, path),
        )  # fmt: skip
        made = {
            "adapt": {"digest": adapt_digest, **adapt_details}, "stab": {"digest": stab_digest, **stab_details},
            "fisher": {"digest": fisher_digest, **fisher_details},
        }  # fmt: skip
    ids = identities.value_identities(config, scoring_digest, reference_digest, made["adapt"]["digest"], made["stab"]["digest"])
    described = {
        "estimator": config.scoring.estimator, "dtype": config.scoring.dtype, "scope_exclude": list(exclude),
        "signals": sorted(config.scoring.signals),
        "reference": {"name": config.model.reference, "digest": reference_digest},
        "scoring": {"name": config.model.scoring or ("warm-up" if scoring != reference else config.model.reference), "digest": scoring_digest},
        "validation_snapshot": validation_id, "made_on_snapshot": snapshot_id, **made,
    }  # fmt: skip
    is_zero = made["stab"]["norm"] == 0
    if is_zero:
        logger.warning(STABILITY_IS_ZERO)
    return ScoringSetup(ids, reference, scoring, adapt, stab, described, is_zero, artifacts.num_made)


def check_weights(folder: Path) -> None:
    """Read the headers of a model's weights, which tell a cut file before anything is made of it.

    Raises:
        ValueError: a file is not whole.
    """
    from safetensors import SafetensorError, safe_open

    for file in weight_files(folder)[1:]:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}); save or fetch it again") from error


_SHAPE = (
    "model_type", "vocab_size", "hidden_size", "n_embd", "intermediate_size", "num_hidden_layers", "n_layer", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
"""Entries of config.json that two models must share for a drift between them to exist."""


def check_same_shape(reference: Path, scoring: Path) -> None:
    """Compare what the configurations say of the parameters' shapes.

    Raises:
        ValueError: they differ.
    """
    one, other = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (reference, scoring))
    one, other = one.get("text_config") or one, other.get("text_config") or other
    different = [f"{key} {other.get(key)} (reference: {one.get(key)})" for key in _SHAPE if one.get(key) != other.get(key)]
    if different:
        raise ValueError(
            f"model.scoring {scoring} is no checkpoint of model.reference {reference}: {', '.join(different)}; "
            "give a model fine-tuned from the reference, with its vocabulary"
        )


class Sequences:
    """The tokenized sequences of snapshots."""

    def __init__(self, warehouse: Warehouse, tokenization_id: str) -> None:
        """Read under one tokenization."""
        self._warehouse = warehouse
        self._tokenization_id = tokenization_id

    def of(self, snapshot_id: str) -> list[tuple[str, list[int], list[int]]]:
        """Return (sequence_id, token ids, response positions) of a snapshot's distinct sequences, sorted by sequence_id."""
        rows = self._warehouse.run("tokenize/fetch_sequences", snapshot_id=snapshot_id, tokenization_id=self._tokenization_id).fetchall()
        return sorted({row[2]: (row[2], row[3], row[4]) for row in rows}.values())


def _warm_up(
    run: Run, reference: Path, reference_digest: str, sequences: list[tuple[str, list[int], list[int]]], path: Path, report: Report
) -> tuple[str, dict[str, Any]]:
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


def _fisher(run: Run, reference: Path, scoring: Path, path: Path, report: Report) -> tuple[str, dict[str, Any]]:
    from models.directions import diagonal_fisher, sample_sequences
    from models.reference import resolve_device

    model = adapters.load_reference(reference, scoring, resolve_device(run.config.model.device))
    scope = adapters.scope(model, scoring, run.config.scoring.scope_exclude, at_reference=True)
    report("sampling text for the Fisher", 0, run.config.scoring.fisher.num_sequences)
    sampled = sample_sequences(model, run.config.scoring.fisher)
    fisher = diagonal_fisher(model, sampled, scope, lambda done, all_: report("Fisher", done, all_))
    return _saved(fisher, path, {"num_sampled_tokens": sum(len(s) - 1 for s in sampled)})


def _adapt(
    run: Run, reference: Path, scoring: Path, validation: list[tuple[str, list[int], list[int]]], path: Path
) -> tuple[str, dict[str, Any]]:
    from models.batches import collate, plan_batches
    from models.directions import validation_gradient
    from models.reference import resolve_device

    model = adapters.load_scoring(reference, scoring, resolve_device(run.config.model.device))
    by_id = {s: (ids, positions) for s, ids, positions in validation}
    plan = plan_batches([(s, len(ids)) for s, (ids, _) in by_id.items()], run.config.scoring.batch_tokens)
    scope = adapters.scope(model, scoring, run.config.scoring.scope_exclude)
    batches = [collate([by_id[s][0] for s in batch], [by_id[s][1] for s in batch]) for batch in plan]
    gradient, loss = validation_gradient(model, batches, scope)
    details = {"validation_loss": loss, "num_sequences": len(validation), **adapters.covered(model, scoring, scope)}
    return _saved(gradient, path, details)


def _stab(run: Run, scoring: Path, reference: Path, fisher: Path, path: Path) -> tuple[str, dict[str, Any]]:
    from models.directions import fisher_drift, load_tensors
    from models.reference import resolve_device

    estimated = load_tensors(fisher)
    device = resolve_device(run.config.model.device if is_adapter(scoring) else "cpu")  # a quantised base may need its device
    model, anchor = adapters.load_scoring(reference, scoring, device), adapters.load_reference(reference, scoring, device)
    theta, anchored = ({name: one.get_parameter(name).cpu() for name in estimated} for one in (model, anchor))
    drift = fisher_drift(estimated, theta, anchored)
    return _saved(drift, path, adapters.covered(model, scoring, list(estimated), at_reference=True))


def _saved(tensors: "dict[str, Tensor]", path: Path, details: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from models.directions import content_digest, save_tensors
    from models.probe import total_norm

    norm = total_norm(tensors.values())
    if not math.isfinite(norm):
        raise ValueError(
            f"{path.name.strip('.')}: the norm is {norm}; the model's gradients are not finite. Check the model, or lower the "
            "learning rate of the warm-up"
        )
    save_tensors(tensors, path)
    return content_digest(tensors), {"norm": norm, **details}
