"""Scoring a part: the model and its directions loaded, batches valued, rows as they are stored. What a worker does, wherever it runs."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from tasks.adapters import load_scoring
from tasks.directions import ScoringSetup
from tasks.settings import Configuration
from warehouse.connect import Warehouse
from warehouse.write import PART_SCHEMAS

if TYPE_CHECKING:
    from models.propagation import PropagationScorer
    from models.scoring import Scorer, SequenceValues

    AnyScorer = Scorer | PropagationScorer

logger = logging.getLogger("alphatoken")


class OutOfMemoryInBatchError(RuntimeError):
    """A batch did not fit; smaller ones may."""


def load_scorer(config: Configuration, setup: ScoringSetup, model: str, groups: Mapping[str, str]) -> "AnyScorer":
    """Load a model and the directions that are asked of it.

    Returns:
        what scores batches.

    Raises:
        ValueError: a direction is not the one that was pinned.
    """
    from models.directions import content_digest, load_tensors
    from models.lowrank import unflatten
    from models.propagation import PropagationScorer
    from models.reference import DTYPES, load_model, resolve_device
    from models.scoring import Scorer

    device, dtype = resolve_device(config.model.device), DTYPES[config.scoring.dtype]
    files = {"adapt": setup.adapt, "stab": setup.stab}
    directions = {name: load_tensors(files[name]) for name in groups if name in files}
    for name, tensors in directions.items():
        if content_digest(tensors) != setup.described[name]["digest"]:
            raise ValueError(
                f"{files[name]} is not the direction that was pinned: it was changed or damaged; remake it with --refresh-scoring"
            )
    settings = config.scoring
    if model == "reference":
        return Scorer(load_model(setup.reference, device, dtype), {}, packing=settings.packing)
    loaded = load_scoring(setup.reference, setup.scoring, device, dtype)
    if settings.estimator == "value_propagation":
        return PropagationScorer(loaded, directions, settings.propagation)
    forms = {name: unflatten(tensors) for name, tensors in directions.items()}
    signals = settings.signals if "signals" in groups else ()
    return Scorer(loaded, forms, signals, packing=settings.packing, activation_checkpointing=settings.activation_checkpointing)


Content = Mapping[str, Sequence[Any]]
"""Sequence to its token ids, its response positions and its weight in the objective."""


def fetch_content(warehouse: Warehouse, sequence_ids: Sequence[str]) -> pl.DataFrame:
    """Read sequences.

    Returns:
        a row per sequence, its id first.
    """
    return warehouse.join_frame("values/fetch_sequences", pa.table({"sequence_id": list(sequence_ids)}))


def content_of(rows: pl.DataFrame) -> Content:
    """Look sequences up by their id."""
    return {one: rest for one, *rest in rows.iter_rows()}


def score_part(batches: list[list[str]], model: str, scorer: "AnyScorer", content: Content, report: Callable[[int, int], None]) -> pa.Table:
    """Score the batches of a part.

    Args:
        batches: sequence ids of each batch.
        model: scoring or reference.
        scorer: what scores them.
        content: the sequences.
        report: told the tokens and the values that are not finite, batch by batch.

    Returns:
        rows of the part, in plan order.

    Raises:
        OutOfMemoryInBatchError: a batch did not fit.
        RuntimeError: any other fault of the pass, as it came.
        MemoryError: (only inside; it leaves as OutOfMemoryInBatchError).
    """
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
        report(sum(len(content[s][0]) for s in batch), sum(v.num_not_finite for v in values))
    return pa.Table.from_pylist(rows, schema=PART_SCHEMAS[model])


@contextmanager
def pinned_threads(number: int | None) -> Generator[None]:
    """Let torch use so many threads for the time of the block; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
