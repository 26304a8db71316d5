"""What a training depends on, read from a release and compared with the configuration as it is now."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.adapter_files import is_adapter
from models.files import resolve_folder
from models.settings import CODE_VERSIONS
from tasks import identities
from tasks.ranks import world_size
from tasks.runs import Run
from tasks.settings import Configuration
from warehouse.digests import digest
from warehouse.ingest import read_examples, read_texts
from warehouse.policies import mask_identity
from warehouse.queries import Queries
from warehouse.write import snapshot_identity

_UNCOUNTED = {"output", "policy", "report_to", "save_steps"}
"""Training settings that do not change the trained model; the mask counts, not the name of its policy."""


Sequence = tuple[list[int], list[int]]
"""(token ids, response positions)."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training depends on.

    Attributes:
        training_id: identity.
        mask_id: the mask.
        start: folder of the weights to start from.
        max_length: tokens of a sequence, for the retention text.
        evaluation: the evaluation sequences; of pairs the chosen and the rejected one in turn.
        evaluates_pairs: whether they are pairs.
        retention: texts of the evaluation half of the retention text.
        settings: what training_id is the digest of.
        done: checkpoint of this very training if it ran before and its folder is there.
        is_noted: whether its figures are in the release, wherever its checkpoint is.
    """

    training_id: str
    mask_id: str
    start: Path
    max_length: int
    evaluation: list[Sequence]
    evaluates_pairs: bool
    retention: list[str]
    settings: dict[str, Any]
    done: Path | None
    is_noted: bool


def plan_training(run: Run, release: Queries, policy: str) -> TrainingPlan:
    """Identify a training from a release and look whether it is done.

    Args:
        run: the run.
        release: the release, open.
        policy: name of the policy.

    Returns:
        the plan.

    Raises:
        ValueError: the release does not fit the configuration: its mask, its evaluation set or the model to start from.
    """
    config, settings = run.config, run.config.training
    pointers = release.pointers()
    mask_id = current_mask(config, pointers, policy)
    scoring = json.loads(release.run("training/scoring_settings", mask_id=mask_id).fetchall()[0][0])
    start_digest = scoring["scoring" if settings.start == "scoring" else "reference"]["digest"]
    start = _start_folder(run, release, start_digest)
    folder = identities.reference_folder(config)
    if identities.scoring_digest(release, start, identities.model_digest(release, folder) if is_adapter(start) else "") != start_digest:
        raise ValueError(f"{start} is not the model that the release was made with; run `alphatoken value` first")
    evaluation, evaluates_pairs = _evaluation(run, release, pointers) if config.data.evaluation is not None else ([], False)
    retention = retention_half(read_texts(config.data.retention, config.base), 1) if config.data.retention is not None else []
    retention = retention[: settings.evaluation_limit]
    tokenization = release.run("training/tokenization_settings", tokenization_id=pointers["tokenization"]).fetchall()
    max_length = int(json.loads(tokenization[0][0])["max_length"])
    uncounted = (
        _UNCOUNTED if settings.skip_batches else _UNCOUNTED | {"skip_batches"}
    )  # trainings from before the setting keep their identity
    counted = {k: v for k, v in dataclasses.asdict(settings).items() if k not in uncounted}
    described = {
        "mask": mask_id,
        "start": start_digest,
        "settings": counted,
        "evaluation": digest(evaluation),
        "retention": digest(retention),
        "max_length": max_length,
        "code_version": CODE_VERSIONS["train"],
    }
    if evaluates_pairs or release.one("training/count_pairs", mask_id=mask_id) != (0,):
        described["preference"] = dataclasses.asdict(config.preference) | {"code_version": CODE_VERSIONS["preference"]}
    if world_size() > 1:  # a batch is then so many times as large
        described["world_size"] = world_size()
    training_id = digest("train", described)
    row = release.one("training/get_training", training_id=training_id)
    done = config.base / row[0] if row is not None and (config.base / row[0] / "config.json").is_file() else None
    return TrainingPlan(
        training_id,
        mask_id,
        start,
        max_length,
        evaluation,
        evaluates_pairs,
        retention,
        {**described, "policy": policy},
        done,
        row is not None,
    )


def _start_folder(run: Run, release: Queries, start_digest: str) -> Path:
    """Find the folder of the weights: a warm-up among the artefacts, the given scoring model, or the reference."""
    config = run.config
    if config.training.start == "reference":
        return identities.reference_folder(config)
    row = release.one("training/get_warmup", content_digest=start_digest)
    if row is not None:
        return config.warehouse_folder / str(row[0])
    return resolve_folder(config.model.scoring or config.model.reference, config.base, config.model.revision, adapters=True)


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
    betas = (None, config.preference.beta)  # of plain responses, of pairs: a snapshot is of one kind, so one of the two identities exists
    held_out_id = pointers.get("held_out")
    if mask_id not in {mask_identity(settings, pointers["scoring"], pointers["snapshot"], beta, held_out_id) for beta in betas}:
        raise ValueError(
            f"the release's mask of policy {policy!r} was made with other settings, values or data than the present ones; "
            f"run `alphatoken mask CONFIG --policy {policy}`"
        )
    return mask_id


def _evaluation(run: Run, release: Queries, pointers: Mapping[str, str]) -> tuple[list[Sequence], bool]:
    """Read the evaluation sequences, at most `evaluation_limit` of them, or as many pairs.

    Returns:
        (sequences, whether they are pairs).

    Raises:
        ValueError: the release has no or another evaluation set, or it holds halves of pairs.
    """
    source, limit = run.config.data.evaluation, run.config.training.evaluation_limit
    assert source is not None, "asked for only where there is one"
    if pointers.get("evaluation") != snapshot_identity(read_examples(source, run.config.base)):
        state = "has no evaluation set" if "evaluation" not in pointers else "has another evaluation set"
        raise ValueError(f"the release {state}, but data.evaluation is configured; run `alphatoken value` first")
    rows = release.run("tokenize/fetch_sequences", snapshot_id=pointers["evaluation"], tokenization_id=pointers["tokenization"]).fetchall()
    branches = [row[1] for row in rows]
    if set(branches) <= {"sft"}:
        return [(row[3], row[4]) for row in rows[:limit]], False
    if branches != ["chosen", "rejected"] * (len(rows) // 2) or any(
        one[0] != two[0] for one, two in zip(rows[::2], rows[1::2], strict=True)
    ):
        raise ValueError(
            f"data.evaluation has {branches.count('chosen')} chosen, {branches.count('rejected')} rejected and {branches.count('sft')} plain responses; "
            "expected whole pairs or plain responses alone; see the view rejected_rows"
        )
    return [(row[3], row[4]) for row in rows[: 2 * limit]], True


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
