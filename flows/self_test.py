"""The flow behind `alphatoken selftest`: what `value` makes before it scores, then the checks instead of the scoring."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from flows.value_tokens import noted
from tasks import stages
from tasks.runs import Run
from tasks.settings import load
from warehouse.connect import writer_lock

if TYPE_CHECKING:
    from models.selftest import Check


@flow(name="self_test", persist_result=False)
def self_test(config_path: str, overrides: Sequence[str] = ()) -> "list[Check]":
    """Check the engine on a user's model, dtype, directions and sequences.

    The artefacts made on the way are those that `value` would make, and it finds them there.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.

    Returns:
        every check with its figure, limit and outcome.
    """
    run = Run.begin("self_test", load(Path(config_path), overrides))
    data = run.config.data
    with writer_lock(run.config.warehouse_folder, run.config.warehouse.lock_timeout_s, "self_test"), noted(run, releases=False) as counts:
        train, validation = stages.ingest(run, "train", data.train), stages.ingest(run, "validation", data.validation)
        tokenized = stages.tokenize(run, train, data.train)
        stages.tokenize(run, validation, data.validation)
        setup = stages.prepare_directions(run, train.snapshot_id, validation.snapshot_id, False)
        checks = stages.check_engine(run, setup, train.snapshot_id, tokenized.tokenization_id)
        counts["checks"] = {"num_passed": sum(c.passed for c in checks), "num_failed": sum(not c.passed for c in checks)}
        return checks
