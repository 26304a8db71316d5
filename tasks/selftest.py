"""The self-test of a configuration: the engine on the user's own model, dtype, directions and sequences."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from models.settings import LowRankSettings
from tasks import adapters
from tasks.directions import ScoringSetup
from tasks.runs import Run
from tasks.sequences import Sequences
from warehouse.connect import Warehouse

if TYPE_CHECKING:
    from models.selftest import Check

logger = logging.getLogger("alphatoken")

_NUM_SEQUENCES = 8
_LONGEST = 512
"""Sequences that are longer are cut to their first tokens around the response: the test takes seconds, not minutes."""

_HALF_MIN_SPEARMAN = 0.98
"""Order of values in half precision against float32 below which the verdict is no."""

Report = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


def selftest(warehouse: Warehouse, run: Run, setup: ScoringSetup, snapshot_id: str, tokenization_id: str, report: Report) -> "list[Check]":
    """Check the engine four ways: exact against slow, batched against single, low rank against dense, half precision against full.

    Args:
        warehouse: the open warehouse.
        run: the run.
        setup: models and directions.
        snapshot_id: the training snapshot, which the sequences are taken from.
        tokenization_id: the tokenization.
        report: told about progress.

    Returns:
        every check with its figure, limit and outcome.

    Raises:
        ValueError: no direction differs from zero.
    """
    import torch

    from models import selftest as checks
    from models.directions import load_tensors
    from models.lowrank import factorise
    from models.probe import scale_directions, total_norm
    from models.reference import DTYPES, resolve_device

    named = {name: load_tensors(path) for name, path in (("adapt", setup.dense_adapt), ("stab", setup.dense_stab))}
    directions = {name: tensors for name, tensors in named.items() if total_norm(tensors.values()) > 0}
    if not directions:
        raise ValueError("selftest: both directions are zero everywhere; there is nothing to check")
    sample = sample_of(Sequences(warehouse, tokenization_id).of(snapshot_id).sequences, _NUM_SEQUENCES, _LONGEST)
    device, dtype = resolve_device(run.config.model.device), DTYPES[run.config.scoring.dtype]
    model = adapters.load_scoring(setup.reference, setup.scoring, device)
    report("self-test", 0, 4)
    found = checks.exact_against_slow(model, directions, *sample[0])
    report("self-test", 1, 4)
    found += checks.batched_against_single(model, scale_directions(model, directions), sample)
    report("self-test", 2, 4)
    settings = run.config.scoring.low_rank or LowRankSettings()
    low = {name: factorise(tensors, settings.rank, settings.energy) for name, tensors in directions.items()}
    limit = settings.min_spearman if run.config.scoring.low_rank is not None else -1.0  # a figure for those who think of it
    found += checks.low_rank_against_dense(model, directions, low, sample, limit)
    report("self-test", 3, 4)
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    other = adapters.load_scoring(setup.reference, setup.scoring, device, half)
    limit = -1.0 if dtype == torch.float32 else _HALF_MIN_SPEARMAN
    found += checks.half_against_full(model, other, directions, sample, limit)
    report("self-test", 4, 4)
    return found


def sample_of(sequences: Sequence[tuple[str, list[int], list[int]]], num: int, longest: int) -> list[tuple[list[int], list[int]]]:
    """Choose sequences evenly over those that have a value, and cut long ones.

    Returns:
        (token ids, response positions) of each, at least one.

    Raises:
        ValueError: no sequence has a response token with a loss.
    """
    from models.selftest import slice_of

    telling = [(ids, positions) for _, ids, positions in sequences if max(positions, default=0) > 0]
    if not telling:
        raise ValueError("no sequence of the training data has a response token with a loss; check data.train")
    chosen = telling[:: max(1, len(telling) // num)][:num]
    return [(ids, positions) if len(ids) <= longest else slice_of(ids, positions, longest) for ids, positions in chosen]
