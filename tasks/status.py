"""What the next run would do and cost, told beforehand from the current release. No torch, no Prefect, nothing is written."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.adapter_files import is_adapter
from models.files import resolve_folder
from tasks import identities
from tasks.adapters import coverage_text
from tasks.lowrank import low_rank_key
from tasks.retention import alignment_texts
from tasks.settings import Configuration
from warehouse import policies
from warehouse.ingest import SourceSettings, TooManyRejectedRows, read_examples
from warehouse.preferences import Kind
from warehouse.read import Reader
from warehouse.write import ValueIdentities, snapshot_identity

Line = tuple[str, str]
"""(stage, what it would do)."""


_TO_BE_MADE = "to be made"
"""Digest of what does not exist yet: no stored identity has it."""


@dataclass(frozen=True)
class _Data:
    """A data set as its files are now: identity of the snapshot it would make, its examples and what they are."""

    snapshot_id: str
    example_ids: list[str]
    num_rejected: int
    kind: Kind


def plan(config: Configuration, reader: Reader) -> list[Line]:
    """Compare the data, models and settings as they are with what the release holds.

    Args:
        config: the configuration.
        reader: the current release.

    Returns:
        a line per stage.
    """
    train, validation = _read(config, config.data.train), _read(config, config.data.validation)
    lines = [("ingest", _ingest(reader, train, "snapshot"))]
    evaluated: list[str] = []
    if config.data.evaluation is not None:
        evaluation = _read(config, config.data.evaluation)
        evaluated = evaluation.example_ids
        there = reader.pointer("evaluation") == evaluation.snapshot_id
        lines.append(("ingest, evaluation set", "unchanged" if there else _ingest(reader, evaluation, "evaluation")))
    how = identities.tokenization(reader, config)
    known = {str(row[0]) for row in reader.run("status/tokenized_ids", tokenization_id=how.tokenization_id).fetchall()}
    fresh = [e for e in {*train.example_ids, *validation.example_ids, *evaluated} if e not in known]
    lines.append(("tokenize", f"{len(fresh):,} examples"))
    made, ids, held_out = _directions(config, reader, how, None if set(fresh) & set(validation.example_ids) else validation.example_ids)
    lines.append(("directions", ", ".join(made) if made else "nothing to make"))
    new = [e for e in fresh if e in set(train.example_ids)]
    lines.append(("score", _scoring(reader, how.tokenization_id, train.example_ids, len(new), ids)))
    if train.kind == "preference":  # pairs are not compared
        held_out = None
    if held_out is not None:
        unknown = len(set(fresh) & set(validation.example_ids))
        lines.append(("score, validation set", _scoring(reader, how.tokenization_id, validation.example_ids, unknown, held_out)))
    beta = config.preference.beta if train.kind == "preference" else None
    held_out_id = None if held_out is None else held_out.scoring_id(how.tokenization_id)
    lines.extend(_masks(config, reader, train.snapshot_id, ids.scoring_id(how.tokenization_id), beta, held_out_id))
    return lines


def _read(config: Configuration, settings: SourceSettings) -> _Data:
    try:
        ingested = read_examples(settings, config.base)
    except TooManyRejectedRows as error:
        ingested = error.ingested
    return _Data(snapshot_identity(ingested), ingested.examples["example_id"].to_list(), len(ingested.rejected), ingested.kind)


def _ingest(reader: Reader, data: _Data, current: str) -> str:
    """Compare a data set with its snapshot that is the current one under a name."""
    stored = {str(row[0]) for row in reader.run("status/snapshot_ids", snapshot_id=reader.pointer(current)).fetchall()}
    added, removed = len(set(data.example_ids) - stored), len(stored - set(data.example_ids))
    return f"{added:,} new and {removed:,} removed examples, {len(data.example_ids) - added:,} as before; {data.num_rejected:,} bad rows"


def _directions(
    config: Configuration, reader: Reader, how: identities.Tokenization, validation: Sequence[str] | None
) -> tuple[list[str], ValueIdentities, ValueIdentities | None]:
    """Follow the artefacts as far as they exist.

    Returns:
        (what would be made, identities of the values: such as no values have where they depend on what is to be made; those of the
        validation set, None where no policy compares with it).
    """
    reference = identities.model_digest(reader, identities.reference_folder(config, download=False))
    made: list[str] = []

    def find(kind: str, key: str | None) -> str | None:
        row = None if key is None else reader.one("artifacts/get_artifact", artifact_key=key)
        if row is None or not (config.warehouse_folder / row[1]).exists():
            made.append(kind)
            return None
        return str(row[0])

    adapted = config.scoring.warmup.lora is not None
    if config.model.scoring is not None:
        folder = resolve_folder(config.model.scoring, config.base, config.model.revision, download=False, adapters=True)
        adapted = is_adapter(folder)
        scoring: str | None = identities.scoring_digest(reader, folder, reference)
    elif config.scoring.warmup.steps == 0:
        scoring = reference
    else:
        scoring = find("warm-up", identities.warmup_key(config, reference, how.tokenization_id))
    by_propagation = config.scoring.estimator == "value_propagation"
    adapt_key, rows = None, []
    if scoring is not None and validation is not None:
        rows = reader.run("status/validation_sequences", tokenization_id=how.tokenization_id, example_ids=list(validation)).fetchall()
        adapt_key = identities.adapt_key(config, scoring, identities.objective(rows, config.preference.beta, reference))
    adapt = find("adaptation direction", adapt_key)
    if by_propagation:
        fisher = find("token-level Fisher", identities.token_fisher_key(config, reference, how.tokenization_id))
        stab = find("stability direction", fisher and scoring and identities.propagation_stab_key(fisher, scoring, reference))
    else:
        stab = _stability(config, find, reference, scoring, how, adapted=adapted)
    if config.scoring.low_rank is not None:
        adapt = find("low-rank adaptation direction", adapt and low_rank_key(config.scoring.low_rank, adapt))
        stab = find("low-rank stability direction", stab and low_rank_key(config.scoring.low_rank, stab))

    def identify(adapt_digest: str | None) -> ValueIdentities:
        return identities.value_identities(config, scoring or _TO_BE_MADE, reference, adapt_digest or _TO_BE_MADE, stab or _TO_BE_MADE)

    ids = identify(adapt)
    return made, ids, _held_out(config, find, rows, ids, scoring or _TO_BE_MADE, reference, identify)


def _held_out(
    config: Configuration, find: Callable[[str, str | None], str | None], rows: Sequence[identities.Link], ids: ValueIdentities,
    scoring: str, reference: str, identify: Callable[[str | None], ValueIdentities],
) -> ValueIdentities | None:  # fmt: skip
    """Identify the values of the validation set; None where no policy compares with them."""
    if not config.keeps_auto:
        return None
    if not config.needs_folds or identities.pairs_of(rows):
        return ids
    folds = [None] * identities.FOLDS if not rows else _folds(config, find, rows, scoring, reference)
    return identities.held_out_identities(ids, [identify(one).adapt_values_id for one in folds])


def _folds(
    config: Configuration, find: Callable[[str, str | None], str | None], rows: Sequence[identities.Link], scoring: str, reference: str
) -> list[str | None]:
    """Follow the directions of the validation set's folds.

    Returns:
        the content digest of each; None where it is to be made.
    """
    digests = []
    for members in identities.folds(row[2] for row in rows):
        rest = identities.objective([row for row in rows if row[2] not in members], config.preference.beta, reference)
        found = find("adaptation direction of a fold", identities.adapt_key(config, scoring, rest))
        if config.scoring.low_rank is not None:
            found = find("low-rank direction of a fold", found and low_rank_key(config.scoring.low_rank, found))
        digests.append(found)
    return digests


def _stability(
    config: Configuration, find: Callable[[str, str | None], str | None], reference: str, scoring: str | None, how: identities.Tokenization,
    *, adapted: bool,
) -> str | None:  # fmt: skip
    """Follow the artefacts of the stability direction, which `find` looks up by name and key, None where the key cannot be known yet.

    Returns:
        content digest of D_S; None where it is to be made.
    """
    retention = alignment_texts(config, how)
    retention_id = None if retention is None else retention.for_fisher(config).identity
    made_of = find("texts", identities.texts_key(config, reference, how.tokenization_id, retention_id))
    if config.scoring.stability.form == "fisher_drift":
        measured = scoring if adapted else reference
        made_of = find("Fisher", made_of and measured and identities.fisher_key(config, measured, made_of))
    stab = find("stability direction", made_of and scoring and identities.stab_key(config, made_of, scoring, reference))
    if retention is not None and scoring != reference:
        compared = retention.for_alignment(config).identity
        find("stability alignment", stab and scoring and identities.alignment_key(stab, scoring, compared))
    return stab


def _scoring(reader: Reader, tokenization_id: str, example_ids: list[str], num_new: int, ids: ValueIdentities) -> str:
    counted = reader.one(
        "status/scored",
        tokenization_id=tokenization_id, example_ids=example_ids, adapt_values_id=ids.adapt_values_id, stab_values_id=ids.stab_values_id,
        signals_id=ids.signals_id, ref_signals_id=ids.ref_signals_id,
    )  # fmt: skip
    assert counted is not None, "an aggregate has one row"
    *lacking, num_tokens = (int(n) for n in counted)
    mean = float((reader.one("status/mean_tokens") or (0,))[0])
    total = num_tokens + round(num_new * mean)
    if total == 0:
        return "nothing: 0 tokens"
    rate = reader.one("status/scoring_rates")
    cost = f", about {total / float(rate[0]):,.0f} s at {float(rate[0]):,.0f} tokens/s" if rate is not None else ""
    names = ("adaptation", "stability", "signals", "reference signals")
    parts = [f"{name} {n + num_new:,}" for name, n in zip(names, lacking, strict=True) if n + num_new]
    return f"sequences lacking values: {', '.join(parts)}; about {total:,} tokens{cost}"


def _masks(
    config: Configuration, reader: Reader, snapshot_id: str, scoring_id: str, beta: float | None, held_out_id: str | None
) -> list[Line]:
    lines = []
    for name, settings in sorted(config.policies().items()):
        there = reader.pointer(f"mask:{name}") == policies.mask_identity(settings, scoring_id, snapshot_id, beta, held_out_id)
        lines.append((f"mask {name}", "unchanged" if there else "to be written"))
    return lines


def pinned(reader: Reader) -> list[Line]:
    """Describe the pinned artefacts: what directions cover, on which snapshot each was made and how far the data have moved since."""
    row = reader.one("status/scoring_settings")
    scope = [] if row is None else [("scope", coverage_text(json.loads(row[0])))]
    return scope + [
        (str(kind), f"made {made:%Y-%m-%d %H:%M} UTC on snapshot {snapshot[:8]}; since then {added:,} examples added, {removed:,} removed")
        for kind, made, snapshot, added, removed in reader.run("status/pinned").fetchall()
    ]


def stability_is_zero(reader: Reader) -> bool:
    """Tell whether the current scoring was made at the reference itself, or at adapters that change nothing."""
    row = reader.one("status/scoring_settings")
    if row is None:
        return False
    settings = json.loads(row[0])
    return bool(settings["stab"]["norm"] == 0)


STABILITY_HINT = (
    "stability is zero: the current scoring was made at the reference itself; set scoring.warmup.steps above 0, or give model.scoring"
)
