"""The stability direction of a run: its texts, the Fisher, D_S, and how well D_S stands for the retention gradient."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import adapters
from tasks.adapters import Models
from tasks.retention import AlignmentTexts
from tasks.settings import Configuration
from warehouse.digests import digest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.batches import TokenBatch
    from models.fisher import Text

    Made = tuple[dict[str, Tensor], dict[str, Any]]
    """(tensors by parameter name, details that are kept with the artefact)."""

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


def make_texts(
    config: Configuration,
    models: Models,
    prompts: Callable[[], list[list[int]]],
    retention: AlignmentTexts | None,
    path: Path,
    report: Report,
) -> tuple[str, dict[str, Any]]:
    """Sample or read the texts of `scoring.fisher.source` and save them as JSON.

    Args:
        config: the configuration.
        models: reference and scoring model.
        prompts: gives the distinct prompts of the training snapshot, in an order that depends on their contents alone.
        retention: the alignment half of the retention text; there is one where the source asks for it.
        path: file to write: a list of [token ids, position of the first token that counts].
        report: told about progress.

    Returns:
        (digest, details): number of texts and of tokens that count.

    Raises:
        ValueError: no text has a token that counts.
    """
    from models.reference import load_tokenizer, resolve_device

    settings = config.scoring.fisher
    report("texts for the stability direction", 0, settings.num_sequences)
    if settings.source == "retention":
        assert retention is not None, "alignment_texts refuses the source where there is no retention text"
        texts = _whole(retention.for_fisher(config).encode(load_tokenizer(models.reference)))
    else:
        anchor = adapters.load_reference(models.reference, models.scoring, resolve_device(config.model.device))
        texts = _sampled(config, anchor, prompts)
    if not texts:
        raise ValueError(f"scoring.fisher: source {settings.source!r} gives no text with a token to predict; check the data, or use 'self'")
    rows = [(list(ids), positions[0]) for ids, positions in texts]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return digest("texts", rows), {"num_texts": len(rows), "num_counted_tokens": sum(len(positions) for _, positions in texts)}


def _whole(sequences: list[list[int]]) -> "Sequence[Text]":
    from models.fisher import whole_texts

    return whole_texts(sequences)


def _sampled(config: Configuration, model: "nn.Module", prompts: Callable[[], list[list[int]]]) -> "Sequence[Text]":
    import torch

    from models.fisher import sample_continuations, sample_sequences

    settings = config.scoring.fisher
    if settings.source == "self":
        return _whole(sample_sequences(model, settings))
    found = prompts()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return sample_continuations(model, [found[i] for i in order[: settings.num_sequences]], settings)


def _load_texts(path: Path) -> "Sequence[Text]":
    return [(ids, range(first, len(ids))) for ids, first in json.loads(path.read_text(encoding="utf-8"))]


def _batches(texts: "Sequence[Text]", batch_tokens: int) -> "list[TokenBatch]":
    from models.batches import collate, plan_batches

    plan = plan_batches([(f"{i:09d}", len(ids)) for i, (ids, _) in enumerate(texts)], batch_tokens)
    chosen = [[texts[int(i)] for i in batch] for batch in plan]
    return [collate([ids for ids, _ in batch], [positions for _, positions in batch]) for batch in chosen]


def estimate_fisher(config: Configuration, models: Models, texts: Path, report: Report) -> "Made":
    """Estimate the Fisher of the reference on texts.

    Args:
        config: device and scope.
        models: the reference, and the scoring model, in whose parameters it is taken.
        texts: file of the texts.
        report: told about progress.

    Returns:
        F, and no details.
    """
    from models.fisher import diagonal_fisher
    from models.reference import resolve_device

    model = adapters.load_reference(models.reference, models.scoring, resolve_device(config.model.device))
    scope = adapters.scope(model, models.scoring, config.scoring.scope_exclude, at_reference=True)
    return diagonal_fisher(model, _load_texts(texts), scope, lambda done, all_: report("Fisher", done, all_)), {}


def make_stability(config: Configuration, models: Models, made_of: Path) -> "Made":
    """Make D_S in the configured form, scope and scaling.

    Args:
        config: the configuration.
        models: reference and scoring model.
        made_of: file of F for the form `fisher_drift`, else of the texts.

    Returns:
        D_S and details: what it covers; for the form `divergence`, KL(reference ‖ model) in nats per token.
    """
    from models.directions import divergence_gradient, fisher_drift, in_scope, load_tensors, scale_tensors
    from models.reference import resolve_device

    settings, device = config.scoring.stability, resolve_device(config.model.device)
    model = adapters.load_scoring(models.reference, models.scoring, device)
    anchor = adapters.load_reference(models.reference, models.scoring, device)
    by_fisher = settings.form == "fisher_drift"  # whose gradients are taken at the reference, the divergence's at the scoring model
    scope = adapters.scope(model, models.scoring, config.scoring.scope_exclude, at_reference=by_fisher)
    scope = in_scope(scope, settings.scope_exclude, "scoring.stability")
    details: dict[str, Any] = {"form": settings.form, **adapters.covered(model, models.scoring, scope, at_reference=by_fisher)}
    if by_fisher:
        fisher = load_tensors(made_of)
        theta, anchored = ({name: one.get_parameter(name).cpu() for name in scope} for one in (model, anchor))
        direction = fisher_drift({name: fisher[name] for name in scope}, theta, anchored)
    else:
        batches = _batches(_load_texts(made_of), config.scoring.batch_tokens)
        direction, details["divergence"] = divergence_gradient(model, anchor, batches, scope)
    return scale_tensors(direction, settings.scaling), details


def measure_alignment(
    config: Configuration, models: Models, stab: Path, retention: AlignmentTexts, path: Path
) -> tuple[str, dict[str, Any]]:
    """Compare D_S with ∇L_ret(θ), the gradient of the mean loss over all tokens of the alignment half of the retention text.

    Args:
        config: the configuration.
        models: reference and scoring model.
        stab: file of D_S, which is not zero.
        retention: the texts.
        path: JSON file to write: the details, and the cosine of every tensor that is not zero.

    Returns:
        (digest, details): cosine over the `scope` of D_S, and over `all` parameters, where D_S is 0 outside its scope; number of texts; L_ret in
        nats per token.
    """
    from models.directions import cosine, load_tensors, validation_gradient
    from models.reference import load_tokenizer, resolve_device

    model = adapters.load_scoring(models.reference, models.scoring, resolve_device(config.model.device))
    direction = load_tensors(stab)
    texts = _whole(retention.for_alignment(config).encode(load_tokenizer(models.reference)))
    batches = _batches(texts, config.scoring.batch_tokens)
    gradient, loss = validation_gradient(model, batches, adapters.scope(model, models.scoring, ()))
    everywhere = {n: direction.get(n, g.new_zeros(()).expand_as(g)) for n, g in gradient.items()}
    details = {"scope": cosine(direction, gradient), "all": cosine(everywhere, gradient), "num_texts": len(texts), "retention_loss": loss}
    per_tensor = {n: cosine({n: t}, gradient) for n, t in direction.items() if t.any() and gradient[n].any()}
    content = {**details, "per_tensor": per_tensor}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return digest("alignment", content), details
