"""Scoring the sequences that lack values: plan, run, write parts, commit shards; a killed run goes on from its last part."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from tasks.directions import ScoringSetup
from tasks.parts import Plan, finished_parts, make_plan, open_plans, read_part, write_part
from tasks.runs import Run
from tasks.score_parts import OutOfMemoryInBatchError, content_of, fetch_content, load_scorer, pinned_threads, score_part
from warehouse import durable
from warehouse.connect import Warehouse
from warehouse.write import ValueIdentities, commit_shard

if TYPE_CHECKING:
    from tasks.score_parts import AnyScorer

logger = logging.getLogger("alphatoken")

_SHARD_SEQUENCES = 8192
"""Sequences committed in one transaction: one row group."""

_GROUPS_OF_MODEL = {"reference": ("ref_signals",), "scoring": ("adapt", "stab", "signals")}

Report = Callable[[int, int], None]
"""Called with (tokens done, all)."""


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

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        """Add up two scorings."""
        return ScoreCounts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


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


def score(
    warehouse: Warehouse, run: Run, setup: ScoringSetup, snapshot_id: str, tokenization_id: str, report: Report,
    only: Collection[str] | None = None,
) -> ScoreCounts:  # fmt: skip
    """Give every sequence of a snapshot the values it lacks.

    Args:
        warehouse: the open warehouse.
        run: the run.
        setup: models, directions, identities.
        snapshot_id: the snapshot.
        tokenization_id: the tokenization.
        report: told about progress.
        only: these sequences; all when absent.

    Returns:
        what was done.
    """
    began = time.monotonic()
    work = warehouse.folder / "work"
    for plan in open_plans(work):
        salvage(warehouse, plan, run.run_id)
    todo = pending(warehouse, setup.ids, snapshot_id, tokenization_id)
    if only is not None:
        todo = todo.filter(pl.col("sequence_id").is_in(list(only)))
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

    shared = run.config.workers.is_shared
    scorer = None if shared else _load(run, setup, model, groups)
    budget = run.config.scoring.batch_tokens
    while lengths:
        stored = (p for p in open_plans(work) if p.groups == groups and p.batch_tokens <= budget and _remaining(p) == set(lengths))
        plan = next(stored, None)
        if plan is None:
            batches = plan_batches(lengths.items(), budget)
            plan = make_plan(work, model, groups, batches, lengths, run.config.scoring.part_tokens, budget)
        try:
            if scorer is None:
                _share_plan(warehouse, run, setup, plan, state)
            else:
                _run_plan(warehouse, run, plan, scorer, state)
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
    """Return the sequences of a plan's parts that are not committed."""
    committed = _committed(plan)
    return {s for number, part in enumerate(plan.parts) if number not in committed for batch in part for s in batch}


def _committed(plan: Plan) -> set[int]:
    """Return the numbers of the parts that are committed: workers finish them in any order."""
    marker = plan.folder / "committed"
    return set(json.loads(marker.read_text())) if marker.is_file() else set()


def _run_plan(warehouse: Warehouse, run: Run, plan: Plan, scorer: "AnyScorer", state: _Progress) -> None:
    """Score the parts of a plan one after the other, in this process."""
    waiting = 0
    committed = _committed(plan)
    with pinned_threads(run.config.workers.torch_threads):
        for number in (n for n in range(len(plan.parts)) if n not in committed):
            content = fetch_content(warehouse, [s for batch in plan.parts[number] for s in batch])
            rows = score_part(plan.parts[number], plan.model, scorer, content_of(content), state.add)
            write_part(plan, number, rows)
            waiting += rows.num_rows
            if waiting >= _SHARD_SEQUENCES:
                salvage(warehouse, plan, run.run_id)
                waiting = 0
    salvage(warehouse, plan, run.run_id, keep_plan=False)


def _share_plan(warehouse: Warehouse, run: Run, setup: ScoringSetup, plan: Plan, state: _Progress) -> None:
    """Let workers score the parts of a plan; this process alone commits what they finish."""
    from tasks.runners import share

    waiting = 0
    salvage(warehouse, plan, run.run_id)
    committed = _committed(plan)
    todo = [number for number in range(len(plan.parts)) if number not in committed]
    for receipt in share(run.config, setup, plan, todo, lambda ids: fetch_content(warehouse, ids)):
        state.add(receipt.num_tokens, receipt.num_not_finite)
        waiting += receipt.num_sequences
        if waiting >= _SHARD_SEQUENCES:
            salvage(warehouse, plan, run.run_id)
            waiting = 0
    salvage(warehouse, plan, run.run_id, keep_plan=False)


def salvage(warehouse: Warehouse, plan: Plan, run_id: str, *, keep_plan: bool = True) -> None:
    """Commit the finished parts of a plan as one shard, then remove their files.

    Rows are committed before the numbers of the committed parts are written and the files go, so being killed anywhere in between only
    means that a later run finds rows which are there already.

    Args:
        warehouse: the open warehouse.
        plan: the plan.
        run_id: the run.
        keep_plan: leave the plan for the parts to come.
    """
    committed = _committed(plan)
    finished = list(finished_parts(plan))
    for path in (path for number, path in finished if number in committed):
        path.unlink()  # committed by a run that was killed before it could remove it
    parts = [(number, path) for number, path in finished if number not in committed]
    if parts:
        commit_shard(warehouse, plan.groups, pa.concat_tables([read_part(path) for _, path in parts]), run_id)
        durable.write(plan.folder / "committed", json.dumps(sorted(committed | {number for number, _ in parts})).encode())
        for _, path in parts:
            path.unlink()
    if not keep_plan:
        (plan.folder / "plan.json").unlink()


def _load(run: Run, setup: ScoringSetup, model: str, groups: Mapping[str, str]) -> "AnyScorer":
    return load_scorer(run.config, setup, model, groups)
