"""Streams masked batches out of a release: documented order, sharded over ranks, resumed at a cursor without replay.

Order. The sequences of the mask's snapshot, sorted by (example_id, branch), each repeated by its example's multiplicity, number
n per epoch. Epoch e goes through `Generator(Philox(key=(seed, e))).permutation(n)`; `warehouse/order.py` says what weights of sources
and buckets of length change in that.

Batches of `batch_size`. Global batch k is the k-th run of `batch_size * world_size` sequences and rank r gets every `world_size`-th
one from its r-th on, so that the global batches depend on that product alone. The last one is partial where n is no multiple.

Batches of `batch_tokens`. The order is cut, greedily, into batches of at most so many tokens with their padding; in step k rank r gets
the batch number `k * world_size + r`. The batches do not depend on the number of ranks. Their number changes a little from epoch to epoch.

Nothing is dropped and nothing comes twice. Every rank delivers the same number of batches, none of them without rows (a rank that
waited for nothing would hang the others in their collective step): where the last step has too few sequences, or batches, for all
ranks, the surplus ranks get one row of filler, a single token 0 that attends to itself (a row that attends to nothing is NaN in some
attention kernels), without labels and without a sequence id. Sequences of which nothing is kept stay in their place, with no label.

Pairs. Where the examples are preferences, read "pair" for "sequence" above: order, weights of sources, `batch_size` and multiplicity count
pairs, the length of a pair is that of its longer branch (its tokens are twice as many), and both branches are always in one batch. A
filler is then two rows.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse.digests import digest
from warehouse.masked_batches import IGNORED_LABEL, MaskedBatch, PairBatch
from warehouse.order import EpochPlan, Planner, StreamSettings
from warehouse.queries import Queries
from warehouse.release import opened
from warehouse.sequences import load_sequences


@dataclass(frozen=True, order=True)
class Cursor:
    """A place in the stream: the next batch to deliver. With a batch size, batch i of a whole run is `Cursor(*divmod(i, num_batches))`.

    Attributes:
        epoch: pass over the data, from 0.
        batch: batch within the epoch, from 0.
    """

    epoch: int
    batch: int


START = Cursor(0, 0)


class MaskedStream:
    """Masked batches of one mask for one rank.

    The tokens are flat arrays of 5 bytes per token, 4 more for soft weights, 4 more for pairs. With `release_folder` they lie in files beside the release, made by the first stream
    and mapped by the later ones; otherwise in memory. The connection is not needed once the stream is made.

    Attributes:
        settings: how sequences become batches.
        rank: which share is delivered.
        world_size: number of shares.
        has_pairs: whether the batches are of pairs: `PairBatch`.
        has_weights: whether the mask has soft weights.
        num_sequences: sequences per epoch over all ranks, duplicates counted; twice the number of pairs.
        num_supervised_tokens: tokens with a loss in one pass over everything, over all ranks, from SQL: kept, at a position above 0,
            duplicates counted. An epoch has so many, unless sources have weights; see `supervised_tokens_in`.
        identity: digest of mask and settings: the same cursor gives the same batch exactly where this is the same.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, mask_id: str, *, seed: int, batch_size: int | None = None, batch_tokens: int | None = None,
        bucket_window: int = 0, source_weights: Mapping[str | None, float] | None = None, rank: int = 0, world_size: int = 1,
        release_folder: Path | None = None,
    ) -> None:  # fmt: skip
        """Read a mask and its sequences, or map the copy of an earlier stream.

        Args:
            con: connection to a release, or to any warehouse nobody writes meanwhile; read only.
            mask_id: the mask to train on.
            seed: see `StreamSettings`, as for the next four.
            batch_size: sequences, or pairs, per batch and rank, or
            batch_tokens: tokens per batch and rank, padding included.
            bucket_window: sequences, or pairs, among which those of like length are put together; 0 = none.
            source_weights: share of each source; None = all sequences as they are.
            rank: which share to deliver, from 0.
            world_size: number of shares.
            release_folder: folder of the release that `con` reads; the flat arrays are kept there.

        Raises:
            ValueError: a number out of range; a mask that is unknown, has no sequences, does not decide on all of them, or has pairs that
                lack a branch or its losses under the reference model.
        """
        self.settings = StreamSettings(
            seed=seed, batch_size=batch_size, batch_tokens=batch_tokens, bucket_window=bucket_window, source_weights=source_weights
        )
        if not 0 <= rank < world_size:
            raise ValueError(f"stream: rank {rank} (from 0 to world_size - 1), world_size {world_size} (at least 1)")
        self.rank, self.world_size = rank, world_size
        self._data = data = load_sequences(con, mask_id, release_folder)
        lengths = data.entries.shape[1] * np.diff(data.offsets)[data.entries].max(axis=1)  # what an entry adds to a padded batch
        self._planner = Planner(self.settings, world_size, lengths, data.source_codes, data.sources)
        self._planned: tuple[int, EpochPlan] | None = None
        self.has_pairs, self.has_weights = data.ref_losses is not None, data.weights is not None
        self.num_sequences = data.entries.size
        self.num_supervised_tokens = data.num_supervised_tokens
        described = dataclasses.asdict(self.settings) | {"source_weights": sorted(map(list, (source_weights or {}).items()), key=str)}
        self.identity = digest("stream", mask_id, described, world_size)

    @cached_property
    def num_batches(self) -> int:
        """Batches per epoch, the same on every rank and in every epoch.

        Raises:
            ValueError: with `batch_tokens` their number changes from epoch to epoch.
        """
        if self.settings.batch_size is None:
            raise ValueError("a stream of batch_tokens has another number of batches in every epoch: ask num_batches_in(epoch)")
        return -(-len(self._data.entries) // (self.settings.batch_size * self.world_size))

    def num_batches_in(self, epoch: int) -> int:
        """Count the batches of an epoch, the same on every rank."""
        return self._plan(epoch).num_batches

    @cached_property
    def keeps_every_token(self) -> bool:
        """Whether the mask keeps every response token of pairs that has a loss, at its full weight: what plain DPO learns from."""
        losses, weights = self._data.ref_losses, self._data.weights
        assert losses is not None, "asked of pairs only"
        has_loss = ~np.isnan(losses)
        return bool(self._data.keep[has_loss].all()) and (weights is None or bool((weights[has_loss] == 1).all()))

    def supervised_tokens_in(self, epoch: int) -> int:
        """Add up the tokens with a loss of an epoch over all ranks."""
        return int(self._data.num_supervised[self._data.entries[self._plan(epoch).order]].sum())

    def batches(self, cursor: Cursor = START, epochs: int | None = None) -> Iterator[tuple[MaskedBatch, Cursor]]:
        """Deliver batches from a cursor on; the same cursor always gives the same next batches, at no cost.

        Args:
            cursor: the next batch to deliver.
            epochs: epochs of the whole run, those before the cursor included; None = endless.

        Yields:
            (batch, cursor after it).

        Raises:
            ValueError: the cursor is outside of an epoch.
        """
        if cursor.epoch < 0 or not 0 <= cursor.batch < self.num_batches_in(cursor.epoch):
            raise ValueError(f"{cursor} is no place in this stream: epochs from 0, batches from 0 to the epoch's last one")
        epoch, first = cursor.epoch, cursor.batch
        while epochs is None or epoch < epochs:
            plan = self._plan(epoch)
            for batch in range(first, plan.num_batches):
                after = Cursor(epoch, batch + 1) if batch + 1 < plan.num_batches else Cursor(epoch + 1, 0)
                yield self._batch(self._data.entries[plan.rows(batch, self.rank)]), after
            epoch, first = epoch + 1, 0

    def _plan(self, epoch: int) -> EpochPlan:
        """Plan an epoch, or take the plan made last."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._planner.plan(epoch))
        return self._planned[1]

    def _batch(self, entries: NDArray[np.int64]) -> MaskedBatch:
        """Pad some sequences to the longest of them; filler where there are none.

        Args:
            entries: int64, [P, 1 or 2], the sequences.

        Returns:
            the batch; first all chosen ones, then all rejected ones.
        """
        data, rows = self._data, entries.T.ravel()
        names = data.sequence_ids.take(pa.array(rows))
        begins, lengths = data.offsets[rows], data.offsets[rows + 1] - data.offsets[rows]
        if len(rows) == 0:
            begins, lengths = np.zeros((2, entries.shape[1]), np.int64)
        shape = (len(begins), max(1, int(lengths.max())))
        padded: dict[str, NDArray[Any]] = {"token_ids": np.zeros(shape, np.int64), "keep": np.zeros(shape, np.bool_)}
        if data.weights is not None:
            padded["weights"] = np.zeros(shape, np.float32)
        if data.ref_losses is not None:
            padded["ref_losses"] = np.full(shape, np.nan, np.float32)
        parts = [(array, getattr(data, name)) for name, array in padded.items()]
        for row, (begin, length) in enumerate(zip(begins.tolist(), lengths.tolist(), strict=True)):
            for array, flat in parts:
                array[row, :length] = flat[begin : begin + length]
        input_ids, num_supervised = padded["token_ids"], int(data.num_supervised[rows].sum())
        attention_mask = (np.arange(shape[1]) < np.maximum(lengths, 1)[:, None]).astype(np.int64)  # a row of filler attends to itself
        labels = np.where(padded["keep"], input_ids, IGNORED_LABEL)
        common = (input_ids, attention_mask, labels, num_supervised, names, padded.get("weights"))
        return MaskedBatch(*common) if data.ref_losses is None else _pairs(common, padded["ref_losses"], len(entries))


def _pairs(common: tuple[Any, ...], ref_losses: NDArray[np.float32], num_pairs: int) -> PairBatch:
    """Complete a batch of pairs: what the reference model says of each response token, 0 where nothing."""
    has_loss = ~np.isnan(ref_losses)
    return PairBatch(
        *common, response_labels=np.where(has_loss, common[0], IGNORED_LABEL), ref_log_probs=np.where(has_loss, -ref_losses, np.float32(0)),
        num_pairs=num_pairs,
    )  # fmt: skip


def open_stream(
    warehouse: Path | str, policy: str = "default", *, seed: int, batch_size: int | None = None, batch_tokens: int | None = None,
    bucket_window: int = 0, source_weights: Mapping[str | None, float] | None = None, rank: int = 0, world_size: int = 1,
) -> MaskedStream:  # fmt: skip
    """Make a stream of the current release's mask of a policy; nothing stays open.

    Args:
        warehouse: the warehouse's folder.
        policy: name of the policy.
        seed: see `MaskedStream`, as for the rest.
        batch_size: sequences per batch and rank, or
        batch_tokens: tokens per batch and rank, padding included.
        bucket_window: sequences among which those of like length are put together.
        source_weights: share of each source.
        rank: which share to deliver.
        world_size: number of shares.

    Returns:
        the stream.

    Raises:
        NoReleaseError: the warehouse has no release.
        ValueError: the release has no such mask, or an argument is out of range.
    """
    with opened(Path(warehouse)) as (con, release):
        return MaskedStream(
            con, policy_mask(Queries(con), policy), seed=seed, batch_size=batch_size, batch_tokens=batch_tokens, bucket_window=bucket_window,
            source_weights=source_weights, rank=rank, world_size=world_size, release_folder=release.folder,
        )  # fmt: skip


def policy_mask(release: Queries, policy: str) -> str:
    """Find the mask of a policy in a release.

    Returns:
        mask_id.

    Raises:
        ValueError: there is none.
    """
    pointers = release.pointers()
    if f"mask:{policy}" not in pointers:
        known = ", ".join(sorted(name.removeprefix("mask:") for name in pointers if name.startswith("mask:"))) or "none"
        raise ValueError(f"the release has no mask of policy {policy!r}; it has {known}; run `alphatoken mask CONFIG --policy {policy}`")
    return pointers[f"mask:{policy}"]
