"""Policies: how stored values become masks. The arithmetic is SQL (sql/masks); here are its steps, its identity and its one transaction."""

import json
from dataclasses import dataclass
from typing import Any

import duckdb

from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.policy_settings import BUILT_IN as BUILT_IN
from warehouse.policy_settings import COLUMNS as COLUMNS
from warehouse.policy_settings import DIRECTIONAL, KNOWN
from warehouse.policy_settings import PolicySettings as PolicySettings
from warehouse.write import OPTIONAL_SIGNALS

CODE_VERSION = 2
"""Bumped by hand when the same values and settings would give another mask."""

_TEMPORARY = ("sequences", "statistics", "ranks", "scores", "counts", "weights")
"""Temporary tables of a mask, mask_<name> each; those behind `scores` are needed up to the end."""


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


def mask_identity(policy_settings: PolicySettings, scoring_id: str, snapshot_id: str, beta: float | None = None) -> str:
    """Digest what a mask depends on. Settings that cannot change it (the seed of a selection by value) are left out, and the name too.

    Args:
        policy_settings: the policy.
        scoring_id: the scoring.
        snapshot_id: the training snapshot.
        beta: β of DPO where the examples are pairs; it counts where the policy reads values of a direction, which are weighed by ω(β).

    Returns:
        the identity.
    """
    if beta is None:
        return digest("mask", CODE_VERSION, policy_settings.decisive(), scoring_id, snapshot_id)
    parts = [(branch, part.decisive()) for branch, part in policy_settings.parts(has_pairs=True)]
    decides = any(_stored_columns(part) & set(DIRECTIONAL) for _, part in policy_settings.parts(has_pairs=True))
    return digest("mask", CODE_VERSION, parts, scoring_id, snapshot_id, beta if decides else None)


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
    scoring_id, snapshot_id = warehouse.pointer("scoring"), warehouse.pointer("snapshot")
    if scoring_id is None or snapshot_id is None:
        missing = "scoring" if scoring_id is None else "snapshot"
        raise ValueError(f"policy {policy!r}: {warehouse.folder} has no current {missing}, so no values to mask; value the tokens first")
    _check_estimator(warehouse, policy, settings)
    beta = _beta(warehouse, policy)
    mask_id = mask_identity(settings, scoring_id, snapshot_id, beta)
    found = warehouse.one("masks/get_mask", mask_id=mask_id)
    if found is not None:
        if warehouse.pointer(f"mask:{policy}") != mask_id:  # a transaction alone would already note the run
            with warehouse.transaction():
                warehouse.point(f"mask:{policy}", mask_id)
        num_tokens, num_kept, num_sequences = found
        return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=False)
    try:
        with warehouse.transaction():
            warehouse.run("masks/delete_mask", mask_id=mask_id)  # leftovers of a mask without receipt
            warehouse.run("masks/delete_mask_values", mask_id=mask_id)
            num_sequences = 0
            for branch, part in settings.parts(has_pairs=beta is not None):
                _score(warehouse, policy, part, branch)
                num_sequences += _insert_values(warehouse, mask_id, part)
            warehouse.run(
                "masks/insert_mask",
                mask_id=mask_id, policy=policy, settings=settings.as_json(beta), scoring_id=scoring_id, snapshot_id=snapshot_id, run_id=run_id,
            )  # fmt: skip
            warehouse.run("runs/insert_receipt", stage="mask", identity=mask_id, num_rows=num_sequences, run_id=run_id)
            warehouse.point(f"mask:{policy}", mask_id)
    finally:
        _drop(warehouse, *_TEMPORARY)
    num_tokens, num_kept, num_sequences = _one_row(warehouse, "masks/get_mask", mask_id=mask_id)
    return MaskReceipt(mask_id, policy, num_tokens, num_kept, num_sequences, written=True)


def _beta(warehouse: Warehouse, policy: str) -> float | None:
    """Read the β by which the values of pairs are weighed.

    Returns:
        β; None where the training examples are single responses.

    Raises:
        ValueError: the examples are pairs and there is none.
    """
    if warehouse.one("ingest/current_kind") != ("preference",):
        return None
    beta = warehouse.pointer("beta")
    if beta is None:
        raise ValueError(
            f"policy {policy!r}: the training data are pairs and the warehouse has no β to weigh them by; run `alphatoken value`"
        )
    return float(beta)


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


def _score(warehouse: Warehouse, policy: str, settings: PolicySettings, branch: str | None = None) -> None:
    """Fill the temporary tables mask_scores, mask_counts and mask_weights with the sequences of a branch, or all.

    Raises:
        ValueError: values, or a signal, are missing; or the expression fails on some values.
    """
    warehouse.run("masks/column_lists")
    warehouse.run("masks/create_sequences", normalize_over=settings.normalize_over, scope=settings.scope, branch=branch)
    _check_complete(warehouse, policy, settings)
    protect = settings.protect_end_of_turn
    threshold = None if settings.threshold is None else settings.threshold / settings.scale()
    if settings.select == "all":
        threshold = None
    count = {"keep": 1.0 if settings.select == "all" else float(settings.keep), "threshold": threshold}
    if settings.reads_values:
        _score_values(warehouse, policy, settings)
    if settings.select == "random":
        if threshold is not None:  # as many as by value
            warehouse.run("masks/count_kept", **count)
        warehouse.run("masks/score_random", seed=str(settings.seed), protect=protect)
    elif settings.select == "all":
        warehouse.run("masks/score_all")
    if settings.select != "random" or threshold is None:
        warehouse.run("masks/count_kept", **count)
    warehouse.run("masks/create_weights")
    if settings.soft == "rank" and settings.select != "all":
        warehouse.run("masks/insert_weights", scope=settings.scope)
    _drop(warehouse, "sequences")


def _check_complete(warehouse: Warehouse, policy: str, settings: PolicySettings) -> None:
    """Compare what the policy reads with what is stored.

    Raises:
        ValueError: sequences of the snapshot lack values (a mask without them would look complete), or a signal was not asked for.
    """
    read = _stored_columns(settings)
    num_sequences, num_valued, *num_with_signal = _one_row(
        warehouse, "masks/count_sequences", **{signal: signal in read for signal in OPTIONAL_SIGNALS}
    )
    if num_valued != num_sequences:
        raise ValueError(
            f"policy {policy!r}: {num_valued} of the {num_sequences} sequences of the current snapshot have values under the current scoring; "
            "a mask needs them all: value the tokens first (an interrupted run continues where it stopped)"
        )
    for signal, num in zip(OPTIONAL_SIGNALS, num_with_signal, strict=True):
        if signal in read and num != num_sequences:
            raise ValueError(
                f"policy {policy!r} reads {signal}, which the current scoring does not hold; add it to scoring.signals and value the tokens "
                "again (no value of a direction is computed anew)"
            )


def _score_values(warehouse: Warehouse, policy: str, settings: PolicySettings) -> None:
    """Fill mask_scores with scores by value: statistics and ranks of the columns that need them, then the macro and the statement.

    Raises:
        ValueError: the expression cannot be computed of some token's values.
        OutOfRangeException: as the others (InvalidInputException, ConversionException), a fault of our own statement.
        InvalidInputException: likewise.
        ConversionException: likewise.
    """
    expression = settings.checked_expression()
    warehouse.run("masks/create_statistics")
    warehouse.run("masks/create_ranks")
    for name in expression.columns:
        form, _, column = name.partition("_")
        if form == "zscore":
            warehouse.run("masks/insert_statistics", name=column)
        elif form == "rank":
            warehouse.run("masks/insert_ranks", name=column)
    # A macro takes no parameters. Its body is a sum of names from our own tables, or what DuckDB printed of a tree that was checked
    # node by node (expressions.py); the weights are parameters of the statement that calls it.
    parameters = ", ".join([*KNOWN, *(f"weight_{column}" for column in COLUMNS)])
    warehouse.con.execute(f"CREATE OR REPLACE TEMP MACRO mask_score({parameters}) AS ({expression.text})")
    weights = {column: settings.weights.get(column, 0.0) / settings.scale() for column in COLUMNS}
    try:
        warehouse.run("masks/score_values", protect=settings.protect_end_of_turn, reach=settings.window // 2, **weights)
    except (duckdb.OutOfRangeException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        if settings.expression is None:
            raise
        raise ValueError(
            f"policy {policy!r}: the expression {settings.expression!r} cannot be computed of some token's values: "
            f"{str(error).splitlines()[0]}; guard it, as in CASE WHEN loss < 100 THEN loss::INTEGER END"
        ) from error
    _drop(warehouse, "statistics", "ranks")


def _stored_columns(settings: PolicySettings) -> set[str]:
    """Name the stored columns that a policy reads."""
    read = settings.checked_expression().columns if settings.reads_values else ()
    return {name.removeprefix("zscore_").removeprefix("rank_") for name in read}


def _insert_values(warehouse: Warehouse, mask_id: str, settings: PolicySettings) -> int:
    """Select from mask_scores into record.mask_values.

    Returns:
        number of sequences.
    """
    by_value = settings.select == "value" and settings.threshold is not None
    selection: dict[str, Any] = {
        "scope": settings.scope,
        "keep": float(settings.keep) if settings.threshold is None else None,
        "threshold": settings.threshold / settings.scale() if by_value and settings.threshold is not None else None,
        "min_kept": settings.min_kept,
        "soft": settings.soft == "rank",
    }
    if settings.select == "all":
        selection = {"scope": settings.scope, "keep": None, "threshold": 0.0, "min_kept": 0, "soft": False}
    return _one_row(warehouse, "masks/insert_mask_values", mask_id=mask_id, **selection)[0]


def _drop(warehouse: Warehouse, *names: str) -> None:
    for name in names:
        warehouse.run(f"masks/drop_{name}")


def _one_row(warehouse: Warehouse, name: str, /, **parameters: Any) -> tuple[int, ...]:
    row: tuple[int, ...] | None = warehouse.one(name, **parameters)
    assert row is not None, f"{name} has exactly one row"
    return row
