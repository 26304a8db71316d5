"""Pinned artefacts of a scoring: warm-up checkpoint, D_A, texts, Fisher and D_S. Made once, saved, then identified by their content."""

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
from models.settings import CODE_VERSIONS
from tasks import adapters, identities, propagation
from tasks.adapters import Models
from tasks.lowrank import check_agreement, low_rank_key, make
from tasks.retention import alignment_texts
from tasks.runs import Run
from tasks.settings import Configuration
from tasks.stability import estimate_fisher, make_stability, make_texts, measure_alignment
from warehouse.connect import Warehouse
from warehouse.write import ValueIdentities

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        adapt: file of D_A as it is valued against, low-rank where the settings ask for that.
        stab: file of D_S, likewise.
        dense_adapt: file of D_A itself.
        dense_stab: file of D_S itself.
        described: what the identities are digests of, for the `scorings` table.
        stability_is_zero: whether D_S is zero, as at θ = θ_ref.
        num_made: artefacts made now; 0 when all were there.
    """

    ids: ValueIdentities
    reference: Path
    scoring: Path
    adapt: Path
    stab: Path
    dense_adapt: Path
    dense_stab: Path
    described: dict[str, Any]
    stability_is_zero: bool
    num_made: int

    @property
    def coverage(self) -> str:
        """What the directions cover, in a sentence."""
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
            kind: warmup, texts, fisher, adapt, stab or alignment.
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
        suffix = {"warmup": "", "texts": ".json", "alignment": ".json"}.get(kind, ".safetensors")
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
                settings=json.dumps({**settings, "code_version": CODE_VERSIONS[identities.MADE_BY[kind]]}, sort_keys=True), details=json.dumps(details), snapshot_id=self._snapshot_id, run_id=self._run.run_id,
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
    tokenization = identities.tokenization(warehouse, config)
    tokenization_id = tokenization.tokenization_id
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
    models = Models(reference, reference_digest, scoring, scoring_digest)
    if config.scoring.estimator == "value_propagation":
        adapt, stab, made = propagation.make_directions(
            config, models, tokenization_id, lambda: sequences.of(snapshot_id), validation, artifacts.get, _saved, report
        )
    else:
        digest_, adapt, details = artifacts.get(
            "adapt", identities.adapt_key(config, scoring_digest, [s for s, _, _ in validation]), dataclasses.asdict(config.scoring.adaptation),
            lambda path: _adapt(run, models, validation, path),
        )  # fmt: skip
        stab, made = _stability(artifacts, config, models, tokenization, lambda: sequences.prompts(snapshot_id), report)
        made["adapt"] = {"digest": digest_, **details}
    dense = {"adapt": adapt, "stab": stab}
    files = {
        name: _low_rank(artifacts, run, models, name, path, made[name], lambda: sequences.of(snapshot_id)) for name, path in dense.items()
    }
    ids = identities.value_identities(config, scoring_digest, reference_digest, made["adapt"]["digest"], made["stab"]["digest"])
    described = {
        "estimator": config.scoring.estimator, "dtype": config.scoring.dtype, "scope_exclude": list(config.scoring.scope_exclude),
        "signals": sorted(config.scoring.signals),
        "reference": {"name": config.model.reference, "digest": reference_digest},
        "scoring": {"name": config.model.scoring or ("warm-up" if scoring != reference else config.model.reference), "digest": scoring_digest},
        "validation_snapshot": validation_id, "made_on_snapshot": snapshot_id,
        "code_versions": identities.code_versions(config), **made,
    }  # fmt: skip
    is_zero = made["stab"]["norm"] == 0
    if is_zero:
        logger.warning(STABILITY_IS_ZERO)
    return ScoringSetup(
        ids, reference, scoring, files["adapt"], files["stab"], dense["adapt"], dense["stab"], described, is_zero, artifacts.num_made
    )


def _stability(
    artifacts: Artifacts, config: Configuration, models: Models, tokenization: identities.Tokenization,
    prompts: Callable[[], list[list[int]]], report: Report,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Make or find the texts, the Fisher where the form of D_S needs it, D_S, and its alignment where there is a retention text.

    Returns:
        (file of D_S, entries for the `scorings` table).
    """
    retention = alignment_texts(config, tokenization)
    fisher_settings, stab_settings = (dataclasses.asdict(s) for s in (config.scoring.fisher, config.scoring.stability))
    retention_id = None if retention is None else retention.for_fisher(config).identity
    digest_, made_of, details = artifacts.get(
        "texts", identities.texts_key(config, models.reference_digest, tokenization.tokenization_id, retention_id), fisher_settings,
        lambda path: make_texts(config, models, prompts, retention, path, report),
    )  # fmt: skip
    described: dict[str, Any] = {"texts": {"digest": digest_, **details}, "stability_alignment": None}
    if config.scoring.stability.form == "fisher_drift":
        texts = made_of
        digest_, made_of, details = artifacts.get(
            "fisher", identities.fisher_key(config, models.fisher_digest, digest_), fisher_settings,
            lambda path: _saved(*estimate_fisher(config, models, texts, report), path),
        )  # fmt: skip
        described["fisher"] = {"digest": digest_, **details}
    digest_, stab, details = artifacts.get(
        "stab", identities.stab_key(config, digest_, models.scoring_digest, models.reference_digest), stab_settings,
        lambda path: _saved(*make_stability(config, models, made_of), path),
    )  # fmt: skip
    described["stab"] = {"digest": digest_, **details}
    if retention is not None and models.scoring_digest != models.reference_digest:
        key = identities.alignment_key(digest_, models.scoring_digest, retention.for_alignment(config).identity)
        _, _, described["stability_alignment"] = artifacts.get(
            "alignment", key, stab_settings, lambda path: measure_alignment(config, models, stab, retention, path)
        )
    return stab, described


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

    def prompts(self, snapshot_id: str) -> list[list[int]]:
        """Return the distinct prompts of a snapshot: the tokens before each sequence's first response token, sorted."""
        return [list(prompt) for prompt in sorted({tuple(ids[: positions[0]]) for _, ids, positions in self.of(snapshot_id)})]


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


def _adapt(run: Run, models: Models, validation: list[tuple[str, list[int], list[int]]], path: Path) -> tuple[str, dict[str, Any]]:
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
    return _saved(scale_tensors(gradient, settings.scaling), details, path)


def _low_rank(
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


def _saved(tensors: "dict[str, Tensor]", details: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    from models.directions import content_digest, energy_shares, save_tensors
    from models.probe import total_norm

    norm = total_norm(tensors.values())
    if not math.isfinite(norm):
        raise ValueError(
            f"{path.name.strip('.')}: the norm is {norm}; the model's gradients are not finite. Check the model, or lower the "
            "learning rate of the warm-up"
        )
    save_tensors(tensors, path)
    return content_digest(tensors), {"norm": norm, "energy_shares": energy_shares(tensors), **details}
