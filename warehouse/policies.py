"""Policies: how stored values become masks. The arithmetic is in masking.py; here are the identity of a mask and its one transaction."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from warehouse import contamination
from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.masking import HeldOut, Mask, compute
from warehouse.policy_settings import BUILT_IN as BUILT_IN
from warehouse.policy_settings import COLUMNS as COLUMNS
from warehouse.policy_settings import DIRECTIONAL
from warehouse.policy_settings import PolicySettings as PolicySettings
from warehouse.token_columns import Stored, TokenColumns
from warehouse.write import GROUPS, OPTIONAL_SIGNALS, receipt

logger = logging.getLogger("alphatoken")

CODE_VERSION = 3
"""Bumped by hand when the same values and settings would give another mask."""

_MUCH = 1 / 3
"""Masked share beyond which `keep: auto` is doubted aloud: whole sources, or what stands behind a strange phrase, may be masked in error."""


@dataclass(frozen=True)
class MaskReceipt:
    """What `write_mask` did.

    Attributes:
        mask_id: identity of the mask.
        policy: the policy that now points to it.
        num_tokens: response tokens of all sequences; one that several examples share counts once.
        num_kept: response tokens kept, likewise.
        num_sequences: sequences.
        written: whether the mask was computed; False if it was there.
    """

    mask_id: str
    policy: str
    num_tokens: int
    num_kept: int
    num_sequences: int
    written: bool


def mask_identity(
    policy_settings: PolicySettings, scoring_id: str, snapshot_id: str, beta: float | None = None, held_out_id: str | None = None
) -> str:
    """Digest what a mask depends on. Settings that cannot change it (the seed of a selection by value) are left out, and the name too.

    Args:
        policy_settings: the policy.
        scoring_id: the scoring.
        snapshot_id: the training snapshot.
        beta: β of DPO where the examples are pairs; it counts where the policy reads values of a direction, which are weighed by ω(β).
        held_out_id: the scoring of the validation set, which counts where it is another one than the scoring (`needs_folds`).

    Returns:
        the identity.
    """
    if policy_settings.compares and beta is None:
        compared = [contamination.CODE_VERSION, held_out_id if policy_settings.needs_folds else None]
        return digest("mask", CODE_VERSION, policy_settings.decisive(), scoring_id, snapshot_id, *compared)
    if beta is None:
        return digest("mask", CODE_VERSION, policy_settings.decisive(), scoring_id, snapshot_id)
    parts = [(branch, part.decisive()) for branch, part in policy_settings.parts(has_pairs=True)]
    decides = any(part.stored_columns() & set(DIRECTIONAL) for _, part in policy_settings.parts(has_pairs=True))
    return digest("mask", CODE_VERSION, parts, scoring_id, snapshot_id, beta if decides else None)


def _rows_identity(settings: PolicySettings, scoring_id: str) -> str:
    """Identify rows that do not depend on other sequences: masks of all snapshots share them, and a new snapshot adds those of its new ones."""
    return digest("mask rows", CODE_VERSION, settings.decisive(), scoring_id)


def write_mask(warehouse: Warehouse, policy: str, settings: PolicySettings, run_id: str) -> MaskReceipt:
    """Make a policy's mask of the current scoring and snapshot, and make it the policy's current one.

    A mask that is there with its receipt is not computed again, whatever the name of the policy it was made for. Otherwise rows,
    receipt and pointer are committed together.

    Args:
        warehouse: the open warehouse, no transaction begun.
        policy: name of the policy; the pointer is `mask:<policy>`.
        settings: what the policy does.
        run_id: the run.

    Returns:
        counts, and whether anything was computed.

    Raises:
        ValueError: there is no current scoring or snapshot, some of its sequences lack values, the policy is for another estimator, the
            scoring lacks a signal that the policy reads, or its expression cannot be computed of some token's values.
    """
    current = warehouse.pointers()
    scoring_id, snapshot_id = current.get("scoring"), current.get("snapshot")
    if scoring_id is None or snapshot_id is None:
        missing = "scoring" if scoring_id is None else "snapshot"
        raise ValueError(f"policy {policy!r}: {warehouse.folder} has no current {missing}, so no values to mask; value the tokens first")
    _check_estimator(warehouse, policy, settings)
    beta = _beta(warehouse, policy, current)
    parts = settings.parts(has_pairs=beta is not None)
    if beta is not None and any(part.compares for _, part in parts):
        raise ValueError(
            f"policy {policy!r} has keep: auto, which is for single responses, and the training data are pairs; say in `branches` what each "
            "branch keeps"
        )
    held_out_id = _held_out_id(warehouse, policy, current) if settings.compares and beta is None else None
    mask_id = mask_identity(settings, scoring_id, snapshot_id, beta, held_out_id)
    found = warehouse.one("masks/get_mask", mask_id=mask_id)
    if found is not None:
        if current.get(f"mask:{policy}") != mask_id:  # a transaction alone would already note the run
            with warehouse.transaction():
                warehouse.point(f"mask:{policy}", mask_id)
        num_tokens, num_kept, num_sequences = found
        return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=False)
    # ω of a pair depends on β and on the examples that share a sequence: rows of pairs are those of their own mask.
    shares_rows = beta is None and settings.is_independent()
    ids = {"mask_id": mask_id, "rows_id": _rows_identity(settings, scoring_id) if shares_rows else mask_id}
    try:
        with warehouse.transaction():
            warehouse.run("masks/delete_mask", mask_id=mask_id)  # leftovers of a mask without receipt
            warehouse.run("masks/delete_mask_values", mask_id=mask_id)
            told: dict[str, Any] = {} if beta is None else {"beta": beta}
            for branch, part in parts:
                mask = _compute(warehouse, policy, part, current, branch, ids["rows_id"] if shares_rows else None)
                if (
                    any(one.gives_weights for _, one in parts) and mask.weights is None
                ):  # a branch of which all is kept, beside one with weights
                    mask = replace(mask, weights=mask.keep.astype(np.float32))
                warehouse.insert("masks/insert_mask_values", mask.rows(), rows_id=ids["rows_id"])
                if mask.found is not None:
                    told["auto"] = asdict(mask.found) | {"held_out_scoring": held_out_id}
            num_sequences, num_tokens, num_kept = warehouse.only(
                "masks/count_rows", rows_id=ids["rows_id"], snapshot_id=snapshot_id, tokenization_id=current["tokenization"]
            )
            warehouse.run(
                "masks/insert_mask",
                policy=policy, settings=settings.as_json(told), scoring_id=scoring_id, snapshot_id=snapshot_id, num_tokens=num_tokens,
                num_kept=num_kept, run_id=run_id, **ids,
            )  # fmt: skip
            receipt(warehouse, "mask", mask_id, num_sequences, run_id)
            warehouse.point(f"mask:{policy}", mask_id)
    finally:
        warehouse.run("masks/drop_sequences")
    if settings.select == "value" and told.get("auto", {}).get("below_threshold", 0.0) > _MUCH:
        logger.warning(
            "policy %r, keep: auto, finds %.0f%% of the training tokens unlike the validation set and masks them; if they are not bad, see "
            "`alphatoken sql --named kept_by_source`, give it validation examples of every kind, or set a share to keep",
            policy, 100 * told["auto"]["below_threshold"],
        )  # fmt: skip
    return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=True)


def _beta(warehouse: Warehouse, policy: str, current: Mapping[str, str]) -> float | None:
    """Read the β by which the values of pairs are weighed.

    Returns:
        β; None where the training examples are single responses.

    Raises:
        ValueError: the examples are pairs and there is none.
    """
    if warehouse.one("ingest/get_kind", snapshot_id=current["snapshot"], role="train") != ("preference",):
        return None
    if "beta" not in current:
        raise ValueError(
            f"policy {policy!r}: the training data are pairs and the warehouse has no β to weigh them by; run `alphatoken value`"
        )
    return float(current["beta"])


def _held_out_id(warehouse: Warehouse, policy: str, current: Mapping[str, str]) -> str:
    """Look up the scoring of the validation set that belongs to the current scoring.

    Returns:
        its scoring_id.

    Raises:
        ValueError: there is none.
    """
    held_out_id, scoring_id = current.get("held_out"), current["scoring"]
    stored = None if held_out_id is None else warehouse.one("values/get_scoring_settings", scoring_id=held_out_id)
    if held_out_id is None or stored is None or scoring_id not in {held_out_id, json.loads(stored[0]).get("held_out_of")}:
        raise ValueError(
            f"policy {policy!r} has keep: auto, which compares with values of the validation set, and the warehouse has none of the current "
            "scoring; run `alphatoken value` with this policy in the configuration"
        )
    return held_out_id


def _check_estimator(warehouse: Warehouse, policy: str, settings: PolicySettings) -> None:
    """Refuse a scoring by another estimator than the policy is for.

    Raises:
        ValueError: the estimators differ.
    """
    if settings.estimator is None:
        return
    row = warehouse.one("status/scoring_settings")
    estimator = json.loads(row[0]).get("estimator") if row is not None else None
    if estimator != settings.estimator:
        raise ValueError(
            f"policy {policy!r} is for values of the estimator {settings.estimator!r}, but the current scoring is by {estimator!r}; "
            f"set scoring.estimator to {settings.estimator} and value the tokens again, or name another policy"
        )


def _prepare(
    warehouse: Warehouse, policy: str, settings: PolicySettings, current: Mapping[str, str], branch: str | None = None,
    known_rows_id: str | None = None, *, snapshot: str = "snapshot", scoring: str = "scoring",
) -> Stored:  # fmt: skip
    """Make mask_sequences, the sequences whose rows are to be computed: those of a branch, or all, that have no known rows.

    Returns:
        where their contents and values are stored.

    Raises:
        ValueError: values, or a signal, are missing.
    """
    ids = {"snapshot_id": current[snapshot], "tokenization_id": current["tokenization"]}
    warehouse.run("masks/create_new", known_rows_id=known_rows_id, branch=branch, **ids)
    identities = dict(zip(GROUPS, warehouse.only("masks/get_values_ids", scoring_id=current[scoring]), strict=True))
    warehouse.run("masks/create_sequences", **identities)
    warehouse.run("masks/drop_new")
    return Stored(_check_complete(warehouse, policy, settings, scoring), identities, are_pairs="beta" in current)


def _compute(
    warehouse: Warehouse, policy: str, settings: PolicySettings, current: Mapping[str, str], branch: str | None, known_rows_id: str | None
) -> Mask:
    """Compute the rows that are not known yet.

    Returns:
        the mask.

    Raises:
        ValueError: values, or a signal, are missing; or the expression cannot be computed of some token's values.
        OutOfRangeException: as the others (InvalidInputException, ConversionException), a fault of our own statement.
        InvalidInputException: likewise.
        ConversionException: likewise.
    """
    try:
        with warehouse.scratch("mask") as folder, warehouse.scratch("mask_held_out") as other_folder:
            held_out = _read_held_out(warehouse, policy, settings, current, other_folder) if settings.compares else None
            stored = _prepare(warehouse, policy, settings, current, branch, known_rows_id)
            return compute(TokenColumns(warehouse, folder, stored), settings, held_out)
    except (duckdb.OutOfRangeException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        if settings.expression is None:
            raise
        raise ValueError(
            f"policy {policy!r}: the expression {settings.expression!r} cannot be computed of some token's values: "
            f"{str(error).splitlines()[0]}; guard it, as in CASE WHEN loss < 100 THEN loss::INTEGER END"
        ) from error


def _read_held_out(warehouse: Warehouse, policy: str, settings: PolicySettings, current: Mapping[str, str], folder: Path) -> HeldOut:
    kind = warehouse.one("ingest/get_kind", snapshot_id=current["validation"], role="validation")
    branch = "chosen" if kind == ("preference",) else None  # of pairs, the responses that the training data ought to look like
    stored = _prepare(warehouse, policy, settings, current, branch, snapshot="validation", scoring="held_out")
    return HeldOut.read(TokenColumns(warehouse, folder, stored), settings)


def _check_complete(warehouse: Warehouse, policy: str, settings: PolicySettings, scoring: str) -> dict[str, int]:
    """Compare what the policy reads with what is stored.

    Returns:
        for the contents and each group of values, the row of its table before which no sequence lies.

    Raises:
        ValueError: sequences of the snapshot lack values (a mask without them would look complete), or a signal was not asked for.
    """
    num_sequences, num_valued, *first = warehouse.only("masks/count_sequences")
    if num_valued != num_sequences:
        raise ValueError(
            f"policy {policy!r}: {num_valued} of the {num_sequences} sequences of the {'current snapshot' if scoring == 'scoring' else 'validation set'} have values under the current scoring; "
            "a mask needs them all: value the tokens first (an interrupted run continues where it stopped)"
        )
    first_rows = dict(zip(("contents", *GROUPS), first, strict=True))
    asked = {signal: signal in settings.stored_columns() for signal in OPTIONAL_SIGNALS}
    if not any(asked.values()):
        return first_rows
    counts = warehouse.only("masks/count_signals", first_row=first_rows["signals"], **asked)
    for signal, num in zip(OPTIONAL_SIGNALS, counts, strict=True):
        if asked[signal] and num != num_sequences:
            raise ValueError(
                f"policy {policy!r} reads {signal}, which the current scoring does not hold; add it to scoring.signals and value the tokens "
                "again (no value of a direction is computed anew)"
            )
    return first_rows
