"""Pinned artefacts of a scoring: warm-up checkpoint, D_A, texts, Fisher and D_S. Made once, saved, then identified by their content."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.adapter_files import is_adapter
from models.files import resolve_folder
from tasks import adapters, identities, propagation
from tasks.adaptation import low_rank_form, make_adaptation, warm_up
from tasks.adapters import Models
from tasks.artifacts import Artifacts, saved
from tasks.held_out import Fold, make_folds
from tasks.model_folders import check_same_shape, check_weights
from tasks.retention import alignment_texts
from tasks.runs import Run
from tasks.sequences import Sequences, Snapshot
from tasks.settings import Configuration
from tasks.stability import estimate_fisher, make_stability, make_texts, measure_alignment
from warehouse.connect import Warehouse
from warehouse.write import ValueIdentities

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
        folds: parts of the validation set with directions of their own; none where no policy asks for them.
        held_out_ids: identities of the validation set's values: those of the folds, or the same ones.
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
    folds: tuple[Fold, ...]
    held_out_ids: ValueIdentities

    @property
    def coverage(self) -> str:
        """What the directions cover, in a sentence."""
        return adapters.coverage_text(self.described)


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
        ValueError: no validation example is usable, or the warm-up on disk is not the one that was made.
    """
    config = run.config
    tokenization = identities.tokenization(warehouse, config)
    tokenization_id = tokenization.tokenization_id
    artifacts = Artifacts(warehouse, run, snapshot_id, refresh=refresh)
    sequences = Sequences(warehouse, tokenization_id)

    @cache
    def training() -> Snapshot:
        return sequences.of(snapshot_id)

    models = _models(artifacts, warehouse, run, tokenization_id, training, report)
    validation = sequences.of(validation_id)
    if not validation.rows:
        raise ValueError("the validation set has no usable example; check data.validation and the table rejected_rows")
    if config.scoring.estimator == "value_propagation":
        adapt, stab, made = propagation.make_directions(
            config, models, tokenization_id, lambda: training().sequences, validation, artifacts.get, saved, report
        )
    else:
        digest_, adapt, details = artifacts.get(
            "adapt", identities.adapt_key(config, models.scoring_digest, validation.as_objective(config.preference.beta, models.reference_digest)), dataclasses.asdict(config.scoring.adaptation),
            lambda path: make_adaptation(run, models, validation, path),
        )  # fmt: skip
        stab, made = _stability(artifacts, config, models, tokenization, lambda: training().prompts, report)
        made["adapt"] = {"digest": digest_, **details}
    dense = {"adapt": adapt, "stab": stab}
    files = {
        name: low_rank_form(artifacts, run, models, name, path, made[name], lambda: training().sequences) for name, path in dense.items()
    }

    def identify(adapt_digest: str) -> ValueIdentities:
        return identities.value_identities(config, models.scoring_digest, models.reference_digest, adapt_digest, made["stab"]["digest"])

    ids = identify(made["adapt"]["digest"])
    folds = make_folds(artifacts, run, models, validation, lambda: training().sequences)
    described = {
        "estimator": config.scoring.estimator, "dtype": config.scoring.dtype, "scope_exclude": list(config.scoring.scope_exclude),
        "signals": sorted(config.scoring.signals),
        "reference": {"name": config.model.reference, "digest": models.reference_digest},
        "scoring": {"name": config.model.scoring or ("warm-up" if models.scoring != models.reference else config.model.reference), "digest": models.scoring_digest},
        "validation_snapshot": validation_id, "made_on_snapshot": snapshot_id,
        "code_versions": identities.code_versions(config), **made,
    }  # fmt: skip
    is_zero = made["stab"]["norm"] == 0
    if is_zero:
        logger.warning(STABILITY_IS_ZERO)
    return ScoringSetup(
        ids,
        models.reference,
        models.scoring,
        files["adapt"],
        files["stab"],
        dense["adapt"],
        dense["stab"],
        described,
        is_zero,
        artifacts.num_made,
        folds,
        identities.held_out_identities(ids, [identify(fold.made["digest"]).adapt_values_id for fold in folds]) if folds else ids,
    )


def _models(
    artifacts: Artifacts, warehouse: Warehouse, run: Run, tokenization_id: str, training: Callable[[], Snapshot], report: Report,
) -> Models:  # fmt: skip
    """Find the reference and the scoring model: the given one, the reference itself, or a warm-up that is made where it is missing.

    Returns:
        both, with their digests.

    Raises:
        ValueError: the warm-up on disk is not the one that was made.
    """
    config = run.config
    reference = identities.reference_folder(config)
    check_weights(reference)
    reference_digest = identities.model_digest(warehouse, reference)
    given = config.model.scoring and resolve_folder(config.model.scoring, config.base, config.model.revision, adapters=True)
    adapters.check_quantised(config, reference, given or None)
    propagation.check_models(config, reference, given or None)
    if given:
        check_weights(given)
        if is_adapter(given):
            adapters.check_scoring(warehouse, config, reference, given)
        else:
            check_same_shape(reference, given)
        return Models(reference, reference_digest, given, identities.scoring_digest(warehouse, given, reference_digest))
    if config.scoring.warmup.steps == 0:
        return Models(reference, reference_digest, reference, reference_digest)
    pinned, scoring, _ = artifacts.get(
        "warmup",
        identities.warmup_key(config, reference_digest, tokenization_id),
        dataclasses.asdict(config.scoring.warmup),
        lambda path: warm_up(run, reference, reference_digest, training().to_imitate, path, report),
    )
    found = identities.scoring_digest(warehouse, scoring, reference_digest)
    if found != pinned:
        raise ValueError(
            f"{scoring} is not the warm-up that was pinned: the digest of its files is {found}, expected {pinned}; it was changed or damaged. "
            "Put the files back, or remake it with --refresh-scoring"
        )
    return Models(reference, reference_digest, scoring, found)


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
            lambda path: saved(*estimate_fisher(config, models, texts, report), path),
        )  # fmt: skip
        described["fisher"] = {"digest": digest_, **details}
    digest_, stab, details = artifacts.get(
        "stab", identities.stab_key(config, digest_, models.scoring_digest, models.reference_digest), stab_settings,
        lambda path: saved(*make_stability(config, models, made_of), path),
    )  # fmt: skip
    described["stab"] = {"digest": digest_, **details}
    if retention is not None and models.scoring_digest != models.reference_digest:
        key = identities.alignment_key(digest_, models.scoring_digest, retention.for_alignment(config).identity)
        _, _, described["stability_alignment"] = artifacts.get(
            "alignment", key, stab_settings, lambda path: measure_alignment(config, models, stab, retention, path)
        )
    return stab, described
