"""Scoring the sequences that lack values: plan, run, write parts, commit shards; a killed run goes on from its last part."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from tasks.adapters import load_scoring
from tasks.directions import ScoringSetup
from tasks.parts import Plan, finished_parts, make_plan, open_plans, read_part, write_part
from tasks.runs import Run
from warehouse.connect import Warehouse
from warehouse.write import PART_SCHEMAS, ValueIdentities, commit_shard

if TYPE_CHECKING:
    from models.propagation import PropagationScorer
    from models.scoring import Scorer, SequenceValues

    AnyScorer = Scorer | PropagationScorer

logger = logging.getLogger("alphatoken")

_SHARD_SEQUENCES = 8192
"""Sequences committed in one transaction: one row group."""

_GROUPS_OF_MODEL = {"reference": ("ref_signals",), "scoring": ("adapt", "stab", "signals")}

Report = Callable[[int, int], None]
"""Called with (tokens done, all)."""


class OutOfMemoryInBatchError(RuntimeError):
    """A batch did not fit; smaller ones may."""


@dataclass(frozen=True)
class ScoreCounts:
    """What a scoring did.

    Attributes:
        num_sequences: sequences that got new values.
        num_tokens: their tokens, prompt included.
        num_not_finite: values that came out infinite or NaN and are NULL.
        seconds: time spent, models' loading included.
    """

    num_sequences: int
    num_tokens: int
    num_not_finite: int
    seconds: float


def pending(warehouse: Warehouse, ids: ValueIdentities, snapshot_id: str, tokenization_id: str) -> pl.DataFrame:
    """List the sequences of a snapshot that lack values.

    Returns:
        sequence_id, num_tokens, and a flag per group of values.
    """
    return warehouse.frame(
        "values/pending",
        snapshot_id=snapshot_id, tokenization_id=tokenization_id, adapt_values_id=ids.adapt_values_id, stab_values_id=ids.stab_values_id,
        signals_id=ids.signals_id, ref_signals_id=ids.ref_signals_id,
    )  # fmt: skip


def score(warehouse: Warehouse, run: Run, setup: ScoringSetup, snapshot_id: str, tokenization_id: str, report: Report) -> ScoreCounts:
    """Give every sequence of a snapshot the values it lacks.

    Args:
        warehouse: the open warehouse.
        run: the run.
        setup: models, directions, identities.
        snapshot_id: the snapshot.
        tokenization_id: the tokenization.
        report: told about progress.

    Returns:
        what was done.
    """
    began = time.monotonic()
    work = warehouse.folder / "work"
    for plan in open_plans(work):
        salvage(warehouse, plan, run.run_id)
    todo = pending(warehouse, setup.ids, snapshot_id, tokenization_id)
    passes = list(_by_needs(todo, setup.ids))
    state = _Progress(report, sum(sum(sequences.values()) for _, _, sequences in passes))
    for model, groups, sequences in passes:
        _score_group(warehouse, run, setup, work, model, groups, sequences, state)
    shutil.rmtree(work, ignore_errors=True)
    return ScoreCounts(len(todo), int(todo["num_tokens"].sum()), state.num_not_finite, time.monotonic() - began)


class _Progress:
    """Counts over all plans of a run."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done, self.num_not_finite = report, total, 0, 0

    def add(self, num_tokens: int, num_not_finite: int) -> None:
        self._done += num_tokens
        self.num_not_finite += num_not_finite
        self._report(self._done, max(self._total, self._done))


def _by_needs(todo: pl.DataFrame, ids: ValueIdentities) -> Iterator[tuple[str, dict[str, str], dict[str, int]]]:
    """Yield (model, groups and identities, length of each sequence) for sequences that lack the same groups."""
    identity = {"adapt": ids.adapt_values_id, "stab": ids.stab_values_id, "signals": ids.signals_id, "ref_signals": ids.ref_signals_id}
    for model, columns in _GROUPS_OF_MODEL.items():
        for flags, rows in sorted(todo.group_by(columns), key=lambda item: item[0]):
            groups = {g: identity[g] for g, lacks in zip(columns, flags, strict=True) if lacks}
            if model == "reference" and ids.ref_signals_id == ids.signals_id and groups:
                continue  # θ = θ_ref: the signals of the scoring model are those of the reference
            if groups:
                yield model, groups, dict(zip(rows["sequence_id"].to_list(), rows["num_tokens"].to_list(), strict=True))


def _score_group(
    warehouse: Warehouse,
    run: Run,
    setup: ScoringSetup,
    work: Path,
    model: str,
    groups: dict[str, str],
    lengths: dict[str, int],
    state: _Progress,
) -> None:
    """Score sequences that lack the same groups with one model, halving the batches while memory runs out."""
    from models.batches import plan_batches

    scorer = _load(run, setup, model, groups)
    budget = run.config.scoring.batch_tokens
    while lengths:
        plan = next((p for p in open_plans(work) if p.groups == groups and _remaining(p) == set(lengths)), None)
        if plan is None:
            plan = make_plan(work, model, groups, plan_batches(lengths.items(), budget), lengths, run.config.scoring.part_tokens)
        try:
            _run_plan(warehouse, run, plan, scorer, lengths, state)
            lengths = {}
        except OutOfMemoryInBatchError as error:
            salvage(warehouse, plan, run.run_id, keep_plan=False)
            lengths = {s: n for s, n in lengths.items() if s in _remaining(plan)}
            if budget <= max(lengths.values()):
                raise MemoryError(
                    f"{error}: a single sequence of {max(lengths.values())} tokens does not fit; lower data.tokenize.max_length"
                ) from error
            budget //= 2
            logger.warning("out of memory; going on with batches of %d tokens", budget)


def _remaining(plan: Plan) -> set[str]:
    """Return the sequences of a plan's parts that are not finished (the marker file counts those committed)."""
    return plan.sequence_ids(_num_committed(plan))


def _num_committed(plan: Plan) -> int:
    marker = plan.folder / "committed"
    return int(marker.read_text()) if marker.is_file() else 0


def _run_plan(warehouse: Warehouse, run: Run, plan: Plan, scorer: "AnyScorer", lengths: Mapping[str, int], state: _Progress) -> None:
    waiting = 0
    for number in range(_num_committed(plan), len(plan.parts)):
        rows = _score_part(warehouse, plan.parts[number], plan.model, plan.groups, scorer, lengths, state)
        write_part(plan, number, rows)
        waiting += rows.num_rows
        if waiting >= _SHARD_SEQUENCES:
            salvage(warehouse, plan, run.run_id)
            waiting = 0
    salvage(warehouse, plan, run.run_id, keep_plan=False)


def salvage(warehouse: Warehouse, plan: Plan, run_id: str, *, keep_plan: bool = True) -> None:
    """Commit the finished parts of a plan as one shard, then remove their files.

    Rows are committed before the count of committed parts is written and the files go, so being killed anywhere in between only
    means that a later run finds rows which are there already.

    Args:
        warehouse: the open warehouse.
        plan: the plan.
        run_id: the run.
        keep_plan: leave the plan for the parts to come.
    """
    marked = _num_committed(plan)
    for _, path in (part for part in finished_parts(plan) if part[0] < marked):
        path.unlink()  # committed by a run that was killed before it could remove it
    parts = list(finished_parts(plan))
    if parts:
        commit_shard(warehouse, plan.groups, pa.concat_tables([read_part(path) for _, path in parts]), run_id)
        marker = plan.folder / ".committed.partial"
        marker.write_text(str(parts[-1][0] + 1))
        marker.replace(plan.folder / "committed")
        for _, path in parts:
            path.unlink()
    if not keep_plan:
        (plan.folder / "plan.json").unlink()


def _load(run: Run, setup: ScoringSetup, model: str, groups: Mapping[str, str]) -> "AnyScorer":
    from models.directions import content_digest, load_tensors
    from models.lowrank import unflatten
    from models.propagation import PropagationScorer
    from models.reference import DTYPES, load_model, resolve_device
    from models.scoring import Scorer

    device, dtype = resolve_device(run.config.model.device), DTYPES[run.config.scoring.dtype]
    files = {"adapt": setup.adapt, "stab": setup.stab}
    directions = {name: load_tensors(files[name]) for name in groups if name in files}
    for name, tensors in directions.items():
        if content_digest(tensors) != setup.described[name]["digest"]:
            raise ValueError(
                f"{files[name]} is not the direction that was pinned: it was changed or damaged; remake it with --refresh-scoring"
            )
    settings = run.config.scoring
    if model == "reference":
        return Scorer(load_model(setup.reference, device, dtype), {}, packing=settings.packing)
    loaded = load_scoring(setup.reference, setup.scoring, device, dtype)
    if settings.estimator == "value_propagation":
        return PropagationScorer(loaded, directions, settings.propagation)
    forms = {name: unflatten(tensors) for name, tensors in directions.items()}
    signals = settings.signals if "signals" in groups else ()
    return Scorer(loaded, forms, signals, packing=settings.packing, activation_checkpointing=settings.activation_checkpointing)


def _score_part(
    warehouse: Warehouse,
    batches: list[list[str]],
    model: str,
    groups: Mapping[str, str],
    scorer: "AnyScorer",
    lengths: Mapping[str, int],
    state: _Progress,
) -> pa.Table:
    """Score the batches of a part.

    Returns:
        rows of the part, in plan order.

    Raises:
        OutOfMemoryInBatchError: a batch did not fit.
        RuntimeError: any other fault of the pass, as it came.
        MemoryError: (only inside; it leaves as OutOfMemoryInBatchError).
    """
    wanted = pa.table({"sequence_id": [s for batch in batches for s in batch]})
    fetched = warehouse.join("values/fetch_sequences", wanted)
    content = {s: (ids, positions, weight) for s, ids, positions, weight in fetched}
    rows = []
    for batch in batches:
        try:
            values = scorer.score([content[s][0] for s in batch], [content[s][1] for s in batch])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise OutOfMemoryInBatchError(str(error).splitlines()[0]) from error
        rows += [_row(s, v.weighted(content[s][2])) for s, v in zip(batch, values, strict=True)]
        for s, v in zip(batch, values, strict=True):
            if v.num_not_finite:
                logger.warning("sequence %s has %d values that are not finite; they are stored as NULL", s, v.num_not_finite)
        state.add(sum(lengths[s] for s in batch), sum(v.num_not_finite for v in values))
    return pa.Table.from_pylist(rows, schema=PART_SCHEMAS[model])


def _row(sequence_id: str, values: "SequenceValues") -> dict[str, Any]:
    row: dict[str, Any] = {"sequence_id": sequence_id, "loss": _nullable(values.loss), "entropy": _nullable(values.entropy)}
    row |= {name: _nullable(signal) for name, signal in values.signals.items()}
    for name in values.direct:
        row[f"{name}_direct"], row[f"{name}_causal"] = _nullable(values.direct[name]), _nullable(values.causal[name])
        context = values.prompt_context[name]
        row[f"{name}_prompt_context"] = context if context == context and abs(context) != float("inf") else None
    return row


def _nullable(values: Any) -> pa.Array:
    """Turn an array with NaN for missing into a list with NULL."""
    return pa.array(values, from_pandas=True).to_pylist()


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error)
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text
