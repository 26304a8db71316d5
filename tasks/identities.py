"""Identities of the stages (DESIGN 4): digests of exactly what their numbers depend on. No torch here."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import chat
from models.adapter_files import ADAPTER_WEIGHTS, deciding_settings, is_adapter
from models.files import context_length, resolve_folder, tokenizer_files, weight_files
from models.settings import CODE_VERSIONS
from tasks.settings import Configuration
from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.queries import Queries
from warehouse.write import ValueIdentities

_DEFAULT_LENGTH = 2048
"""Tokens of a sequence when neither the settings nor the model's configuration name a limit."""


@dataclass(frozen=True)
class Tokenization:
    """How examples become tokens.

    Attributes:
        tokenization_id: identity of all of it.
        tokenizer_digest: identity of the vocabulary.
        settings: the settings with max_length resolved.
        described: what tokenization_id is the digest of.
    """

    tokenization_id: str
    tokenizer_digest: str
    settings: chat.TokenizeSettings
    described: dict[str, Any]


def file_digest(warehouse: Queries, path: Path) -> str:
    """Digest a file, once: the digest is remembered by size and time of change.

    Returns:
        32 hexadecimal digits (BLAKE2b of the bytes).
    """
    stat = path.stat()
    key = {"path": str(path), "num_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    row = warehouse.one("artifacts/get_file_digest", **key)
    if row is not None:
        return str(row[0])
    found = _bytes_digest(path)
    if isinstance(warehouse, Warehouse):
        with warehouse.transaction():
            warehouse.run("artifacts/delete_file_digest", path=str(path))
            warehouse.run("artifacts/insert_file_digest", **key, digest=found)
    return found


def _bytes_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def files_digest(warehouse: Queries, kind: str, files: Sequence[Path]) -> str:
    """Digest several files by name and content."""
    return digest(kind, [(path.name, file_digest(warehouse, path)) for path in files])


def model_digest(warehouse: Queries, folder: Path) -> str:
    """Digest a model: its configuration and weights."""
    return files_digest(warehouse, "model", weight_files(folder))


def scoring_digest(warehouse: Queries, folder: Path, reference_digest: str) -> str:
    """Digest a scoring model: as `model_digest`; of adapters the reference below them, their tensors and their scale."""
    if not is_adapter(folder):
        return model_digest(warehouse, folder)
    return _adapted_digest(reference_digest, folder, file_digest(warehouse, folder / ADAPTER_WEIGHTS))


def unremembered_scoring_digest(folder: Path, reference_digest: str) -> str:
    """Digest a scoring model that is about to move: as `scoring_digest`, without remembering where its files are."""
    if not is_adapter(folder):
        return digest("model", [(path.name, _bytes_digest(path)) for path in weight_files(folder)])
    return _adapted_digest(reference_digest, folder, _bytes_digest(folder / ADAPTER_WEIGHTS))


def _adapted_digest(reference_digest: str, folder: Path, weights_digest: str) -> str:
    return digest("adapted", reference_digest, deciding_settings(folder), weights_digest)


def reference_folder(config: Configuration, *, download: bool = True) -> Path:
    """Find the reference model's folder, downloading a hub name once."""
    return resolve_folder(config.model.reference, config.base, config.model.revision, download=download)


def tokenization(warehouse: Queries, config: Configuration) -> Tokenization:
    """Identify the tokenization of a configuration: tokenizer files, template in force, settings, code version."""
    folder = reference_folder(config, download=isinstance(warehouse, Warehouse))
    settings = config.data.tokenize
    limit = context_length(folder)
    length = settings.max_length or limit or _DEFAULT_LENGTH
    template = settings.chat_template
    if template is not None and template != "chatml":
        template = str((config.base / template).resolve())
    resolved = dataclasses.replace(settings, max_length=min(length, limit) if limit else length, chat_template=template)
    tokenizer_digest = files_digest(warehouse, "tokenizer", tokenizer_files(folder))
    described = {
        "tokenizer": tokenizer_digest,
        "chat_template": template and (file_digest(warehouse, Path(template)) if template != "chatml" else template),
        "max_length": resolved.max_length,
        "min_prompt_tokens": resolved.min_prompt_tokens,
        "separator": resolved.separator,
        "code_version": chat.CODE_VERSION,
    }
    return Tokenization(digest("tokenize", described), tokenizer_digest, resolved, described)


def warmup_key(config: Configuration, reference_digest: str, tokenization_id: str) -> str:
    """Identify a warm-up: everything but the training snapshot, to which the artefact is pinned when it is made."""
    warmup = dataclasses.asdict(config.scoring.warmup)
    if warmup["lora"] is None:
        del warmup["lora"]  # as if the setting were not there
    elif not isinstance(warmup["lora"]["target_modules"], str):
        warmup["lora"]["target_modules"] = sorted(warmup["lora"]["target_modules"])
    return digest("warmup", reference_digest, tokenization_id, warmup, CODE_VERSIONS["train"])


def texts_key(config: Configuration, reference_digest: str, tokenization_id: str, retention_id: str | None = None) -> str:
    """Identify the texts of the stability direction.

    Args:
        config: source and counts.
        reference_digest: the reference model, which writes them.
        tokenization_id: of the prompts. The training snapshot they are drawn from is left out: the artefact is pinned to it.
        retention_id: identity of the retention texts.

    Returns:
        the key; what a source does not use does not count.
    """
    fisher = config.scoring.fisher
    sampled = [reference_digest, fisher.num_sequences, fisher.num_tokens, fisher.seed]
    inputs = {"self": sampled, "prompts": [*sampled, tokenization_id], "retention": [retention_id]}[fisher.source]
    return digest("texts", fisher.source, inputs, CODE_VERSIONS["fisher"])


def fisher_key(config: Configuration, model_digest: str, texts_digest: str) -> str:
    """Identify a Fisher estimate of the reference on texts; over adapter weights it depends on the adapters, too (`model_digest` is theirs)."""
    return digest("fisher", model_digest, texts_digest, sorted(config.scoring.scope_exclude), CODE_VERSIONS["fisher"])


def token_fisher_key(config: Configuration, reference_digest: str, tokenization_id: str) -> str:
    """Identify the token-level Fisher of `value_propagation`: everything but the training snapshot, whose prompts it is pinned to."""
    settings = dataclasses.asdict(config.scoring.propagation)
    del settings["window"]
    return digest(
        "token_fisher", reference_digest, tokenization_id, settings, sorted(config.scoring.scope_exclude), CODE_VERSIONS["token_fisher"]
    )


def propagation_stab_key(token_fisher_digest: str, scoring_digest: str, reference_digest: str) -> str:
    """Identify V of `value_propagation`: its Fisher and the drift."""
    return digest("propagation_stab", token_fisher_digest, scoring_digest, reference_digest, CODE_VERSIONS["directions"])


Link = tuple[str, str, str]
"""(example_id, branch, sequence_id)."""


def pairs_of(links: Iterable[Link]) -> list[tuple[str, str]]:
    """Find the distinct pairs among the sequences of examples.

    Returns:
        (chosen, rejected) sequence ids, sorted; none where the examples are single responses.
    """
    by_example: dict[str, dict[str, str]] = {}
    for example_id, branch, sequence_id in links:
        by_example.setdefault(example_id, {})[branch] = sequence_id
    return sorted({(one["chosen"], one["rejected"]) for one in by_example.values() if "rejected" in one})


def objective(links: Iterable[Link], beta: float, reference_digest: str) -> list[str]:
    """Say what the loss on a data set depends on.

    Args:
        links: its examples' sequences.
        beta: `preference.beta`.
        reference_digest: the reference model.

    Returns:
        of single responses their sequences; of pairs, whose loss is that of DPO, also β and the reference.
    """
    links = list(links)
    pairs = pairs_of(links)
    if not pairs:
        return [sequence_id for _, _, sequence_id in links]
    return [*(f"{chosen} over {rejected}" for chosen, rejected in pairs), f"DPO, beta {beta!r}, reference {reference_digest}"]


def adapt_key(config: Configuration, scoring_digest: str, validation: Iterable[str]) -> str:
    """Identify D_A: the scoring model, the `objective` of the validation set, scope and scaling; G of `value_propagation`: the last blocks."""
    if config.scoring.estimator == "value_propagation":
        scope = [config.scoring.propagation.last_blocks, sorted(config.scoring.scope_exclude)]
        return digest("propagation_adapt", scoring_digest, sorted(set(validation)), scope, CODE_VERSIONS["directions"])
    how = [sorted(config.scoring.scope_exclude), sorted(config.scoring.adaptation.scope_exclude), config.scoring.adaptation.scaling]
    return digest("adapt", scoring_digest, sorted(set(validation)), how, CODE_VERSIONS["directions"])


def stab_key(config: Configuration, made_of: str, scoring_digest: str, reference_digest: str) -> str:
    """Identify D_S.

    Args:
        config: form, scope and scaling.
        made_of: digest of the Fisher, or of the texts where the form needs none.
        scoring_digest: one end of the drift.
        reference_digest: the other.

    Returns:
        the key.
    """
    stability = config.scoring.stability
    how = [stability.form, sorted(config.scoring.scope_exclude), sorted(stability.scope_exclude), stability.scaling]
    return digest("stab", made_of, scoring_digest, reference_digest, how, CODE_VERSIONS["directions"])


def alignment_key(stab_digest: str, scoring_digest: str, retention_id: str) -> str:
    """Identify the comparison of D_S with the gradient of the retention loss: both, and the retention texts."""
    return digest("alignment", stab_digest, scoring_digest, retention_id, CODE_VERSIONS["directions"])


MADE_BY = {
    "warmup": "train", "texts": "fisher", "fisher": "fisher", "token_fisher": "token_fisher", "adapt": "directions", "stab": "directions",
    "alignment": "directions", "adapt_low_rank": "low_rank", "stab_low_rank": "low_rank", "held_out": "directions",
    "held_out_low_rank": "low_rank",
}  # fmt: skip
"""Which of `CODE_VERSIONS` an artefact's numbers depend on, by its kind."""


def code_versions(config: Configuration) -> dict[str, int]:
    """Tell the versions of the code behind a scoring: of its estimator and of all that its directions are made of; those in its identity."""
    used = ["directions", "probe"]
    if config.model.scoring is None and config.scoring.warmup.steps > 0:
        used.append("train")
    used += ["propagation", "token_fisher"] if config.scoring.estimator == "value_propagation" else ["fisher"]
    used += ["low_rank"] if config.scoring.low_rank is not None else []
    return {name: CODE_VERSIONS[name] for name in sorted(used)}


FOLDS = 4
"""Parts that the validation set is cut into for `keep: auto`."""


def folds(sequence_ids: Iterable[str]) -> list[frozenset[str]]:
    """Cut the validation set into `FOLDS` parts of about one size.

    Args:
        sequence_ids: its sequences.

    Returns:
        the parts.

    Raises:
        ValueError: there are fewer than two sequences for each part.
    """
    ordered = sorted(set(sequence_ids))
    if len(ordered) < 2 * FOLDS:
        raise ValueError(
            f"a policy has keep: auto, which compares the training data with the validation set; that has {len(ordered)} different usable "
            f"sequences, and {2 * FOLDS} are needed at least; the more, the surer. Give it more, or give the policy a share to keep"
        )
    return [frozenset(ordered[part::FOLDS]) for part in range(FOLDS)]


def held_out_identities(ids: ValueIdentities, fold_values: Iterable[str]) -> ValueIdentities:
    """Identify the values of a validation set whose folds are valued each against the direction of the others.

    Args:
        ids: identities of the scoring.
        fold_values: what the adaptation values of each fold would be called as those of a scoring.

    Returns:
        the identities; all but those of adaptation are the scoring's own.
    """
    return dataclasses.replace(ids, adapt_values_id=digest("held out", sorted(fold_values)))


def value_identities(
    config: Configuration, scoring_digest: str, reference_digest: str, adapt_digest: str, stab_digest: str
) -> ValueIdentities:
    """Identify the four groups of values of a scoring.

    Args:
        config: estimator with its settings, dtype and optional signals count.
        scoring_digest: the scoring model.
        reference_digest: the reference model.
        adapt_digest: content of D_A.
        stab_digest: content of D_S.

    Returns:
        the identities.
    """
    optional = [sorted(config.scoring.signals)] if config.scoring.signals else []  # none: the identity of before there were any
    how = [config.scoring.estimator, config.scoring.dtype, CODE_VERSIONS["probe"]]
    signals = how[1:]  # loss and entropy are the same numbers under any estimator
    if config.scoring.estimator == "value_propagation":
        form = config.scoring.propagation
        how = [config.scoring.estimator, config.scoring.dtype, CODE_VERSIONS["propagation"], form.last_blocks, form.window]
    return ValueIdentities(
        adapt_values_id=digest("values", scoring_digest, adapt_digest, *how),
        stab_values_id=digest("values", scoring_digest, stab_digest, *how),
        signals_id=digest("signals", scoring_digest, *signals, *optional),
        ref_signals_id=digest("ref_signals", reference_digest, *signals),  # of the reference the loss alone is kept
    )
