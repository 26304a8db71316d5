"""What the estimator `value_propagation` needs of its own: G and V over the last blocks, and the token-level Fisher behind V."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.adapter_files import is_adapter
from tasks import identities
from tasks.adaptation import objective_gradient
from tasks.adapters import Models
from tasks.sequences import Sequence_, Snapshot
from tasks.settings import Configuration

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""

Made = tuple[str, dict[str, Any]]
"""(content digest, details) of an artefact."""

GetArtifact = Callable[[str, str, Mapping[str, Any], Callable[[Path], Made]], tuple[str, Path, Any]]
"""`tasks.artifacts.Artifacts.get`."""

Save = Callable[["dict[str, Tensor]", dict[str, Any], Path], Made]
"""Writes tensors with their details to a path, after a look at their norm."""


def check_models(config: Configuration, reference: Path, given: Path | None) -> None:
    """Compare the estimator `value_propagation` with its models, before anything is made with them; nothing for `exact`.

    Args:
        config: the configuration.
        reference: folder of the reference model.
        given: folder of the scoring model, where the configuration names one.

    Raises:
        ValueError: the scoring model is an adapter, or `scoring.propagation.last_blocks` is larger than the number of blocks.
    """
    from models.blocks import check_number

    if config.scoring.estimator != "value_propagation":
        return
    if config.scoring.warmup.lora is not None or (given is not None and is_adapter(given)):
        raise ValueError(
            "scoring.estimator is 'value_propagation', whose values belong to the weights of the last blocks, but the scoring model is an "
            "adapter; set scoring.estimator to 'exact', or scoring.warmup.lora (or model.scoring) to none"
        )
    stated = json.loads((reference / "config.json").read_text(encoding="utf-8"))
    stated = stated.get("text_config") or stated
    number = stated.get("num_hidden_layers") or stated.get("n_layer")
    if number is not None:
        check_number(config.scoring.propagation.last_blocks, number)


def make_directions(
    config: Configuration,
    models: Models,
    tokenization_id: str,
    training: Callable[[], Sequence[Sequence_]],
    validation: Snapshot,
    get: GetArtifact,
    save: Save,
    report: Report,
) -> tuple[Path, Path, dict[str, Any]]:
    """Make or find the token-level Fisher, G and V.

    Args:
        config: the configuration.
        models: reference and scoring model.
        tokenization_id: of the training prompts.
        training: sequences of the training snapshot; read only when the Fisher is made.
        validation: the validation set.
        get: looks an artefact up, or makes it.
        save: writes an artefact.
        report: told about progress.

    Returns:
        (file of G, file of V, entries for the table `scorings`).
    """
    settings = dataclasses.asdict(config.scoring.propagation)
    fisher_digest, fisher, fisher_details = get(
        "token_fisher", identities.token_fisher_key(config, models.reference_digest, tokenization_id), settings,
        lambda path: save(*_fisher(config, models.reference, training(), path, report)),
    )  # fmt: skip
    adapt_digest, adapt, adapt_details = get(
        "adapt",
        identities.adapt_key(config, models.scoring_digest, validation.as_objective(config.preference.beta, models.reference_digest)),
        settings, lambda path: make_adaptation(config, models, validation, path, save),
    )  # fmt: skip
    stab_digest, stab, stab_details = get(
        "stab", identities.propagation_stab_key(fisher_digest, models.scoring_digest, models.reference_digest), settings,
        lambda path: save(*_stab(models, fisher, path)),
    )  # fmt: skip
    made = {
        "propagation": settings,
        "fisher": {"digest": fisher_digest, **fisher_details},
        "adapt": {"digest": adapt_digest, **adapt_details},
        "stab": {"digest": stab_digest, **stab_details},
    }
    return adapt, stab, made


def training_prompts(sequences: Sequence[Sequence_], number: int) -> list[list[int]]:
    """Draw prompts: of the sequences in the order of their ids, which are digests, the first distinct ones.

    Args:
        sequences: the training snapshot.
        number: how many at most.

    Returns:
        token ids before the first response token; prompts that are empty are left out.
    """
    prompts = (tuple(ids[: positions[0]]) for _, ids, positions in sorted(sequences) if positions and positions[0] > 0)
    return [list(prompt) for prompt in list(dict.fromkeys(prompts))[:number]]


Tensors = tuple["dict[str, Tensor]", dict[str, Any], Path]
"""What is saved: (tensors, details, path)."""


def _fisher(config: Configuration, reference: Path, training: Sequence[Sequence_], path: Path, report: Report) -> Tensors:
    from models.blocks import block_scope
    from models.reference import load_model, resolve_device
    from models.token_fisher import continue_prompts, token_fisher

    settings = config.scoring.propagation
    prompts = training_prompts(training, settings.fisher_sequences)
    if not prompts:
        raise ValueError(f"none of the {len(training)} training sequences has a prompt, which value_propagation needs for its Fisher")
    model = load_model(reference, resolve_device(config.model.device))
    scope = block_scope(model, settings.last_blocks, config.scoring.scope_exclude)
    report("continuing prompts for the Fisher", 0, len(prompts))
    texts = continue_prompts(model, prompts, settings)
    fisher = token_fisher(
        model, texts, scope, settings.last_blocks, config.scoring.batch_tokens, lambda done, all_: report("Fisher", done, all_)
    )
    return fisher, {"num_texts": len(texts), "num_sampled_tokens": sum(len(positions) for _, positions in texts)}, path


def make_adaptation(config: Configuration, models: Models, validation: Snapshot, path: Path, save: Save) -> Made:
    """Make G, the gradient of the loss on the validation set with respect to the last blocks, and save it.

    Args:
        config: last blocks, scope and device.
        models: the scoring model and the reference.
        validation: the validation set.
        path: file to write.
        save: writes it.

    Returns:
        (content digest, details).
    """
    from models.blocks import block_scope
    from models.reference import load_model, resolve_device

    model = load_model(models.scoring, resolve_device(config.model.device))
    scope = block_scope(model, config.scoring.propagation.last_blocks, config.scoring.scope_exclude)
    gradient, details = objective_gradient(config, models, model, validation, scope)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    covered = sum(sizes[n] for n in scope) / sum(sizes.values())
    return save(gradient, {**details, "covered_parameters": covered}, path)


def _stab(models: Models, fisher: Path, path: Path) -> Tensors:
    from models.directions import fisher_drift, load_tensors
    from models.reference import float32_parameters, load_model, resolve_device

    cpu = resolve_device("cpu")
    scoring, reference = (float32_parameters(load_model(folder, cpu)) for folder in (models.scoring, models.reference))
    return fisher_drift(load_tensors(fisher), scoring, reference), {}, path
