"""The Prefect tasks of the `value_tokens` flow: ingest, tokenize, directions, score, mask, release.

Each opens the warehouse, calls one function, writes, and returns a small receipt. Prefect's own cache is off: the warehouse is the truth
about what is done.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tasks import directions, held_out, identities, scoring, selftest, training
from tasks.progress import Progress
from tasks.runs import Run
from tasks.tokenizing import tokenized_rows
from warehouse import policies, write
from warehouse.holds import hold_until_checked
from warehouse.ingest import SourceSettings, read_examples
from warehouse.release import write_release

if TYPE_CHECKING:
    from models.selftest import Check

logger = logging.getLogger("alphatoken")


def from_outside(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Decide on a retry: only faults that may pass by themselves (network, disk), not bad input.

    Returns:
        whether to try again.
    """
    fault = state.result(raise_on_failure=False)
    lasting = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(fault, OSError) and not isinstance(fault, lasting)


P = ParamSpec("P")
R = TypeVar("R")


def retried(function: Callable[P, R]) -> Task[P, R]:
    """Make a Prefect task that is tried three times when the fault comes from outside."""
    return task(retries=2, retry_delay_seconds=5, retry_condition_fn=from_outside, cache_policy=NO_CACHE, persist_result=False)(function)


def once(function: Callable[P, R]) -> Task[P, R]:
    """Make a Prefect task that is tried once."""
    return task(cache_policy=NO_CACHE, persist_result=False)(function)


@dataclass(frozen=True)
class SnapshotReceipt:
    """A snapshot: its identity, and how many examples, rows and bad rows it has."""

    snapshot_id: str
    num_examples: int
    num_rows: int
    num_rejected: int


@retried
def ingest(run: Run, role: str, settings: SourceSettings) -> SnapshotReceipt:
    """Read a data set; store its examples and the rows set aside when they changed."""
    ingested = read_examples(settings, run.config.base)
    with run.open() as warehouse:
        snapshot_id = write.write_snapshot(warehouse, role, ingested, run.run_id)
    if len(ingested.rejected):
        logger.warning("%s: %d of %d rows set aside, see the view rejected_rows", role, len(ingested.rejected), ingested.num_rows)
    return SnapshotReceipt(snapshot_id, len(ingested.examples), ingested.num_rows, len(ingested.rejected))


@dataclass(frozen=True)
class TokenizeReceipt:
    """A tokenized snapshot.

    Attributes:
        tokenization_id: identity of the tokenization.
        num_tokenized: examples tokenized now.
        counts: totals over the snapshot: sequences, tokens, response tokens, cuts, rejected examples.
    """

    tokenization_id: str
    num_tokenized: int
    counts: dict[str, int]


@retried
def tokenize(run: Run, snapshot: SnapshotReceipt, settings: SourceSettings) -> TokenizeReceipt:
    """Tokenize the examples of a snapshot that are not tokenized yet.

    Returns:
        counts over the snapshot.

    Raises:
        ValueError: more rows are bad than `max_rejected_share` allows, those set aside before counted in.
    """
    snapshot_id = snapshot.snapshot_id
    with run.open() as warehouse:
        how = identities.tokenization(warehouse, run.config)
        waiting = warehouse.run("tokenize/pending_examples", snapshot_id=snapshot_id, tokenization_id=how.tokenization_id).fetchall()
        if waiting:
            rows, texts = tokenized_rows(waiting, how, identities.reference_folder(run.config))
            write.write_vocabulary(warehouse, how.tokenizer_digest, texts)
            write.write_sequences(warehouse, how.tokenization_id, how.tokenizer_digest, how.described, rows, run.run_id)
        counts = warehouse.frame("tokenize/summary", snapshot_id=snapshot_id, tokenization_id=how.tokenization_id).row(0, named=True)
        reasons = warehouse.run("tokenize/count_reasons", snapshot_id=snapshot_id, tokenization_id=how.tokenization_id).fetchall()
    num_bad = snapshot.num_rejected + counts["num_rejected"]
    told = ", ".join(f"{count} {reason}" for reason, count in reasons)
    if counts["num_sequences"] == 0 or num_bad > settings.max_rejected_share * snapshot.num_rows:
        raise ValueError(
            f"{settings.path}: {counts['num_rejected']} of {snapshot.num_examples} examples became no sequence ({told}), {snapshot.num_rejected} "
            f"rows were set aside before; max_rejected_share allows {settings.max_rejected_share:.0%} of {snapshot.num_rows} rows. "
            "Correct them, change data.tokenize, or raise max_rejected_share"
        )
    if reasons:
        logger.warning("%d examples became no sequence (%s), see the view rejected_rows", counts["num_rejected"], told)
    return TokenizeReceipt(how.tokenization_id, len(waiting), counts)


@retried
def prepare_directions(run: Run, snapshot_id: str, validation_id: str, refresh: bool) -> directions.ScoringSetup:
    """Make or find warm-up, Fisher, D_A and D_S."""
    with run.open() as warehouse, Progress() as progress:
        return directions.prepare(warehouse, run, snapshot_id, validation_id, progress.steps, refresh=refresh)


@retried
def score(run: Run, setup: directions.ScoringSetup, snapshot_id: str, tokenization_id: str) -> scoring.ScoreCounts:
    """Value the tokens of the sequences that lack values, and make the scoring the current one."""
    with run.open() as warehouse, Progress() as progress:
        artifact = _ProgressArtifact(progress.tokens)
        counts = scoring.score(warehouse, run, setup, snapshot_id, tokenization_id, artifact)
        validation_id = setup.described["validation_snapshot"]
        compares = run.config.keeps_auto and warehouse.one("ingest/get_kind", snapshot_id=snapshot_id, role="train") != ("preference",)
        for sequence_ids, of_fold in held_out.setups(setup) if compares else ():
            counts += scoring.score(warehouse, run, of_fold, validation_id, tokenization_id, artifact, sequence_ids)
        hold_until_checked(warehouse, setup.ids.scoring_id(tokenization_id), snapshot_id)
        write.write_scoring(warehouse, setup.ids, tokenization_id, snapshot_id, setup.described, run.run_id, validation_id=validation_id)
        if compares:
            told = {"held_out_of": setup.ids.scoring_id(tokenization_id), "folds": [fold.made for fold in setup.folds]}
            write.write_held_out(warehouse, setup.held_out_ids, tokenization_id, setup.described | told, run.run_id)
    return counts


@once
def check_engine(run: Run, setup: directions.ScoringSetup, snapshot_id: str, tokenization_id: str) -> "list[Check]":
    """Check the engine on the model, dtype, directions and sequences of a configuration."""
    with run.open() as warehouse, Progress() as progress:
        return selftest.selftest(warehouse, run, setup, snapshot_id, tokenization_id, progress.steps)


class _ProgressArtifact:
    """Tells the terminal about every batch and Prefect about every tenth part of the work."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._artifact: Any = None
        self._told = -1

    def __call__(self, done: int, total: int) -> None:
        self._tell(done, total)
        tenths = 10 * done // max(total, 1)
        if tenths > self._told:
            self._told = tenths
            if self._artifact is None:
                self._artifact = create_progress_artifact(progress=10.0 * tenths, description="Tokens valued")
            else:
                update_progress_artifact(artifact_id=self._artifact, progress=10.0 * tenths)


@once
def mask(run: Run, policy: str) -> policies.MaskReceipt:
    """Apply a policy to the current scoring and snapshot, pairs weighed by the configuration's β."""
    with run.open() as warehouse:
        write.write_beta(warehouse, run.config.preference.beta)
        return policies.write_mask(warehouse, policy, run.config.policy_named(policy), run.run_id)


@once
def release(run: Run, *, brings_data: bool) -> tuple[str, bool]:
    """Write a release for readers when anything changed.

    Returns:
        (release_id, whether it was written now).
    """
    found, written = write_release(run.config.warehouse_folder, run.config.warehouse.keep_releases, brings_data=brings_data)
    return found.release_id, written


@once
def set_evaluation(run: Run, validation_id: str, evaluation_id: str) -> None:
    """Make an evaluation set the current one, after comparing it with the validation set by content.

    Raises:
        ValueError: they share examples.
    """
    with run.open() as warehouse:
        row = warehouse.one("ingest/count_shared", one=validation_id, other=evaluation_id)
        if row is not None and row[0]:
            raise ValueError(
                f"data.validation and data.evaluation share {row[0]} examples; what makes the direction must not measure the result: "
                "take them from different rows (offset and limit select rows of a file)"
            )
        if warehouse.pointer("evaluation") != evaluation_id:
            with warehouse.transaction():
                warehouse.point("evaluation", evaluation_id)


@retried
def train(run: Run, policy: str, report: Callable[[str, int, int], None], *, keep_model: bool = True) -> training.TrainingReceipt:
    """Fine-tune on the mask of a policy, from the current release."""
    return training.train(run, policy, report, keep_model=keep_model)
