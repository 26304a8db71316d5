"""The jobs that bench/kills.py kills: the pipeline's own write paths, with a function of the tokens in place of the model."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

JOBS = ("value", "value what changed", "prune")


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
            "policy": {"default": {}},
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
    setup = ScoringSetup(ids, nowhere, nowhere, made["adapt"][1], made["stab"][1], nowhere, nowhere, described, False, 0, (), ids)
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
