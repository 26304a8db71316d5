"""Kills at random times: the real write paths with synthetic values, killed by SIGKILL over and over; receipts and rows checked after each kill.

Three jobs follow one another in a small warehouse: value a data set; value a changed one against another direction; prune. Whatever writes
is the pipeline's own (ingest, tokenized rows, artefacts, parts, commits, masks, runs, releases, prune, compaction); the model alone is left
out: values are a function of the tokens. Each job is killed at random times and begun again until it gets through. After every kill a
copy of the warehouse is checked: every receipt has its rows, whole, and no value, mask or snapshot is there without a receipt; the
release that readers have is whole. After every job its rows must be those of an undisturbed run.

python -m bench.kills [--kills 100] [--examples 400] [--seed 0]
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.kills_check import check, rows_of

JOBS = ("value", "value what changed", "prune")
STAGES = ("begin", "ingest", "tokenize", "artefacts", "score", "commit", "scoring", "mask", "prune", "compact", "release")


@dataclass
class Outcome:
    """What the kills met.

    Attributes:
        stages: kills by the stage they fell in.
        num_rounds: warehouses made from nothing.
        num_checks: checks of a killed warehouse.
        num_receipts: receipts checked, over all of them.
        seconds: wall time of all.
    """

    stages: Counter[str] = field(default_factory=Counter)
    num_rounds: int = 0
    num_checks: int = 0
    num_receipts: int = 0
    seconds: float = 0.0


def kill_often(num_kills: int, num_examples: int, seed: int, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Kill jobs until there were enough kills, and see the last round through.

    Args:
        num_kills: how many.
        num_examples: size of the data set.
        seed: of the times.
        folder: an empty folder to work in.
        tell: told a line per round.

    Returns:
        the outcome.

    Raises:
        AssertionError: rows are missing, broken or others than those of an undisturbed run.
    """
    began, generator, outcome = time.monotonic(), random.Random(seed), Outcome()
    whole = folder / "undisturbed"
    whole.mkdir(parents=True)
    durations, expected = [], []
    for job in range(len(JOBS)):
        start = time.monotonic()
        assert _run(whole, job, num_examples, None) is None, f"the undisturbed job {JOBS[job]!r} was killed by something else"
        durations.append(time.monotonic() - start)
        expected.append(_in_child(rows_of, whole / "warehouse"))
    while sum(outcome.stages.values()) < num_kills:
        outcome.num_rounds += 1
        here = folder / f"round-{outcome.num_rounds}"
        here.mkdir()
        for job in range(len(JOBS)):
            while True:
                enough = sum(outcome.stages.values()) >= num_kills
                stage = _run(here, job, num_examples, None if enough else generator.uniform(0, durations[job]))
                if stage is None:
                    break
                outcome.stages[stage] += 1
                outcome.num_receipts += _check_copy(here)
                outcome.num_checks += 1
            found = _in_child(rows_of, here / "warehouse")
            assert found == expected[job], (
                f"after {JOBS[job]!r} of round {outcome.num_rounds} these tables differ: {_different(found, expected[job])}"
            )
            _check_copy(here)
        shutil.rmtree(here)
        tell(f"round {outcome.num_rounds}: {sum(outcome.stages.values())} kills")
    outcome.seconds = time.monotonic() - began
    return outcome


def _different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _check_copy(here: Path) -> int:
    """Check a copy: looking at a database replays its log, which the next run shall do itself.

    Returns:
        number of receipts.
    """
    copy = here / "copy"
    shutil.copytree(here / "warehouse", copy) if (here / "warehouse").is_dir() else copy.mkdir()
    try:
        return int(_in_child(check, copy, here / "journal"))
    finally:
        shutil.rmtree(copy)


def _run(here: Path, job: int, num_examples: int, after_s: float | None) -> str | None:
    """Do a job in a child, which is killed after a time if it is not through by then.

    Returns:
        the stage that the kill fell in; None where the job got through.

    Raises:
        AssertionError: the job failed by itself.
    """
    stage = here / "stage"
    stage.write_bytes(b"begin".ljust(20))
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _work(lambda: do_job(here, job, num_examples), told)
    os.close(told)
    ready, _, _ = select.select([done], [], [], after_s)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(done) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and not said:
        return stage.read_text().strip()
    assert code in (0, -signal.SIGKILL), f"the job {JOBS[job]!r} ended with {code}"  # killed after it had said how it went, or not at all
    assert not json.loads(said)[1], f"the job {JOBS[job]!r} failed: {said}"
    return None


def _in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a child, so that this process never has threads of DuckDB when it forks.

    Returns:
        its result, by way of JSON.

    Raises:
        AssertionError: it failed.
    """
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _work(lambda: function(*arguments), told)
    os.close(told)
    with os.fdopen(done) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    result, error = json.loads(said or '[null, "it was killed"]')
    assert not error, f"{function.__name__}: {error}"
    return result


def _work(function: Callable[[], Any], told: int) -> None:
    """Tell the parent the result of a function, or its error, and end this process."""
    said: tuple[Any, str | None] = (None, None)
    try:
        said = (function(), None)
    except BaseException:
        said = (None, traceback.format_exc())
    os.write(told, json.dumps(said).encode())
    os._exit(0)


# ---- the jobs


def do_job(here: Path, job: int, num_examples: int) -> None:
    """Do one of `JOBS` in a folder: what is there already is not done again."""
    from flows.value_tokens import noted
    from tasks.runs import Run
    from tasks.settings import build
    from warehouse.connect import writer_lock

    config = build(
        {
            "data": {"train": "train.jsonl", "validation": "train.jsonl"}, "model": {"reference": "none"},
            "scoring": {"batch_tokens": 512, "part_tokens": 2048}, "warehouse": {"path": "warehouse", "keep_releases": 2},
        }, here, "bench.kills",
    )  # fmt: skip
    run = Run.begin(JOBS[job], config)
    _watch(here)
    with writer_lock(config.warehouse_folder, 0, JOBS[job]), noted(run) as counts:
        if job == 2:
            _prune(run)
        else:
            _value(run, job, num_examples)
        counts["job"] = job
        enter("release")


_open_files: dict[str, int] = {}
"""Descriptors of a job: `stage`, where it is; `journal`, what each receipt will stand for."""


def enter(stage: str) -> None:
    """Note the stage where whoever kills this process finds it."""
    os.pwrite(_open_files["stage"], stage.encode().ljust(20), 0)


def note(*line: Any) -> None:
    """Write down what a receipt will stand for, before it is committed."""
    os.write(_open_files["journal"], (json.dumps(line) + "\n").encode())


def _watch(here: Path) -> None:
    """Replace the model by a function and Prefect's task by a plain function; note stages and receipts. This process does one job and ends."""
    from tasks import scoring, stages
    from warehouse import prune

    _open_files["stage"] = os.open(here / "stage", os.O_WRONLY)
    _open_files["journal"] = os.open(here / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    commit, write_digest = scoring.commit_shard, prune.digest

    def committed(warehouse: Any, groups: Any, rows: Any, run_id: str) -> int:
        enter("commit")
        note("score", dict(groups), rows.column("sequence_id").to_pylist())
        number: int = commit(warehouse, groups, rows, run_id)
        enter("score")
        return number

    def digested(*parts: Any) -> str:
        if len(parts) == 2 and isinstance(parts[1], list):
            note("renewed", *parts)
        return write_digest(*parts)

    scoring.commit_shard, scoring._SHARD_SEQUENCES, scoring._load = committed, 64, lambda *_: _Scorer()  # type: ignore[assignment,return-value]
    prune.digest = digested
    stages.release = stages.release.fn  # type: ignore[assignment]


class _Scorer:
    """Values that are a function of the tokens."""

    def score(self, token_ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[Any]:
        """Return values of sequences."""
        import numpy as np

        from models.scoring import SequenceValues

        made = []
        for ids, at in zip(token_ids, positions, strict=True):
            one = np.sin(np.asarray(ids, dtype=np.float64)[list(at)]).astype(np.float32)
            both = {"adapt": one, "stab": -one}
            made.append(SequenceValues(both, both, dict.fromkeys(both, 0.5), one, one, 0))
        return made


def _value(run: Any, job: int, num_examples: int) -> None:
    """Ingest, tokenize, make directions, score, mask: as the flow does, in the same order and by the same functions."""
    from tasks import scoring
    from tasks.artifacts import Artifacts
    from tasks.directions import ScoringSetup
    from warehouse.ingest import read_examples
    from warehouse.policies import write_mask
    from warehouse.write import ValueIdentities, write_scoring, write_snapshot

    enter("ingest")
    _write_data(run.config.base / "train.jsonl", num_examples, changed=num_examples // 5 if job else 0)
    ingested = read_examples(run.config.data.train, run.config.base)
    with run.open() as warehouse:
        snapshot_id = write_snapshot(warehouse, "train", ingested, run.run_id)
    enter("tokenize")
    with run.open() as warehouse:
        _tokenize(warehouse, snapshot_id, run.run_id)
    enter("artefacts")
    with run.open() as warehouse:
        artifacts = Artifacts(warehouse, run, snapshot_id, refresh=False)
        made = {kind: artifacts.get(kind, f"{kind}-{job if kind == 'adapt' else 0}", {}, _make(job)) for kind in ("adapt", "stab")}
    ids = ValueIdentities(f"A-{job}", "S", "G", "R")
    described = {"estimator": "exact", "validation_snapshot": None, **{kind: {"digest": one[0]} for kind, one in made.items()}}
    nowhere = run.config.base
    setup = ScoringSetup(ids, nowhere, nowhere, made["adapt"][1], made["stab"][1], nowhere, nowhere, described, False, 0)
    enter("score")
    with run.open() as warehouse:
        scoring.score(warehouse, run, setup, snapshot_id, "tok", lambda *_: None)
        enter("scoring")
        write_scoring(warehouse, ids, "tok", snapshot_id, described, run.run_id)
    for policy in ("default", "random"):
        enter("mask")
        with run.open() as warehouse:
            write_mask(warehouse, policy, run.config.policy_named(policy), run.run_id)
    enter("release")


def _write_data(path: Path, num_examples: int, *, changed: int) -> None:
    rows = ({"prompt": f"question {i}", "response": f"answer {i * 7919}" + (" again" if i < changed else "")} for i in range(num_examples))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _make(job: int) -> Callable[[Path], tuple[str, dict[str, Any]]]:
    """Make an artefact: a file, known by its content."""

    def make(path: Path) -> tuple[str, dict[str, Any]]:
        from warehouse.digests import digest

        kind = path.name.split("-")[0].strip(".")
        text = f"{kind} {job if kind == 'adapt' else 0} " * 1000
        path.write_text(text)
        return digest(text), {}

    return make


def _tokenize(warehouse: Any, snapshot_id: str, run_id: str) -> None:
    """Tokenize what is not yet: a token per character."""
    import pyarrow as pa

    from warehouse.write import SEQUENCE_SCHEMA, sequence_identity, write_sequences, write_vocabulary

    waiting = warehouse.run("tokenize/pending_examples", snapshot_id=snapshot_id, tokenization_id="tok").fetchall()
    if not waiting:
        return
    rows = []
    for example_id, content in waiting:
        ids = list(content.encode())
        at = list(range(len(ids) // 2, len(ids)))
        rows.append({
            "example_id": example_id, "branch": "sft", "sequence_id": sequence_identity("sft", ids, at, at[-1:]), "token_ids": ids,
            "response_positions": at, "end_of_turn_positions": at[-1:], "num_prompt_tokens_cut": 0, "num_response_tokens_cut": 0,
        })  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SEQUENCE_SCHEMA)
    note("tokenize", "tok", table.column("example_id").to_pylist())
    write_vocabulary(warehouse, "vocabulary", [chr(i) for i in range(256)])
    write_sequences(warehouse, "tok", "vocabulary", {}, table, run_id)


def _prune(run: Any) -> None:
    """Prune to the present state, and write the live file anew."""
    from warehouse.compact import compact
    from warehouse.prune import PruneRules, plan, remove

    enter("prune")
    with run.open() as warehouse:
        remove(warehouse, plan(warehouse, PruneRules(keep_last=1, policies=("default", "random"))), run.run_id)
    enter("compact")
    compact(run.config.warehouse_folder, run.config.warehouse)
    enter("release")


def import_all() -> None:
    """Import what the jobs need, once for all children; nothing is computed, so no thread exists when this process forks."""
    import importlib

    for name in (
        "flows.value_tokens",
        "pandas",
        "models.batches",
        "models.scoring",
        "tasks.scoring",
        "warehouse.policies",
        "warehouse.compact",
        "warehouse.prune",
    ):
        importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, check and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    import_all()
    with tempfile.TemporaryDirectory(prefix="alphatoken-kills-") as folder:
        outcome = kill_often(options.kills, options.examples, options.seed, Path(folder), print)
    print("\n| stage | kills |\n|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {outcome.stages[stage]} |")
    print(
        f"\n{sum(outcome.stages.values())} kills in {outcome.num_rounds} warehouses, {outcome.num_receipts} receipts checked, none without its "
        f"rows; rows of every finished job equal to those of an undisturbed run ({outcome.seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
