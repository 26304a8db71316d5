"""The order of a stream: which sequences an epoch has, how they are shuffled, bucketed by length and cut into batches.

Every number is drawn by Philox with the key (seed, epoch) and a counter whose highest word says what for, so that no epoch needs the
ones before it and no two purposes share numbers.

Weights of sources. Without weights an epoch is every sequence, as often as its example comes. With weights an epoch has as many
sequences, n, and source s fills `n * weight_s / sum of weights` of them (rounded by the largest remainders, so within one sequence).
Each source goes through its own permutations, one behind the other, across epochs: none of its sequences comes a second time before
all have come once. A weight of 0 leaves a source out.

Buckets of length. The shuffled sequences are taken in windows of `bucket_window`; inside a window they are sorted by length, cut into
batches, and the batches shuffled. A window of fixed-size batches is rounded up to whole global batches, and what is left over at the
end of the epoch stays one unsorted partial batch. Nothing is dropped and nothing comes twice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEQUENCES, _BATCHES, _FIRST_SOURCE = 0, 1, 2
"""Purposes of random numbers: order of sequences, of batches inside a window, of the first source (the next source has the next number)."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How sequences become batches. Exactly one of `batch_size` and `batch_tokens` is given.

    Attributes:
        seed: seed of the order, from 0 to 2**64 - 1.
        batch_size: sequences per batch and rank.
        batch_tokens: tokens per batch and rank, padding included; a longer sequence is a batch of its own.
        bucket_window: sequences among which those of like length are put together; 0 = batches of any lengths.
        source_weights: share of each source of the data, relative to their sum; the source of rows without one is None.
    """

    seed: int
    batch_size: int | None = None
    batch_tokens: int | None = None
    bucket_window: int = 0
    source_weights: Mapping[str | None, float] | None = None

    def __post_init__(self) -> None:
        sizes = [size for size in (self.batch_size, self.batch_tokens) if size is not None]
        if len(sizes) != 1 or sizes[0] < 1 or not 0 <= self.seed < 2**64 or self.bucket_window < 0:
            raise ValueError(
                f"stream: batch_size {self.batch_size} or batch_tokens {self.batch_tokens} (one of them, at least 1), "
                f"bucket_window {self.bucket_window} (at least 0), seed {self.seed} (from 0 to 2**64 - 1)"
            )
        weights = list((self.source_weights or {}).values())
        if self.source_weights is not None and not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
            raise ValueError(f"stream: source_weights {dict(self.source_weights)}; expected finite numbers, none below 0, one above 0")


@dataclass(frozen=True)
class EpochPlan:
    """The batches of an epoch. Batch k of rank r is `rows(k, r)`.

    Attributes:
        order: int64, the sequences of the epoch in the stream's order.
        cuts: int64, where in `order` each batch begins, and its end: global batches of fixed size, or batches of single ranks.
        world_size: ranks that share the epoch.
        is_shared: whether all ranks take from one stretch (fixed size) or each has its own (token budget).
    """

    order: NDArray[np.int64]
    cuts: NDArray[np.int64]
    world_size: int
    is_shared: bool

    @property
    def num_batches(self) -> int:
        """Batches of each rank."""
        stretches = len(self.cuts) - 1
        return stretches if self.is_shared else -(-stretches // self.world_size)

    def rows(self, batch: int, rank: int) -> NDArray[np.int64]:
        """Give the sequences of a batch of a rank; none where the epoch's last step has too few for all ranks."""
        if self.is_shared:
            return self.order[self.cuts[batch] + rank : self.cuts[batch + 1] : self.world_size]
        own = batch * self.world_size + rank
        return self.order[self.cuts[own] : self.cuts[own + 1]] if own + 1 < len(self.cuts) else self.order[:0]


class Planner:
    """Plans epochs over entries: sequences, or pairs of them, repeated by the multiplicity of their example, in a documented order.

    Attributes:
        num_entries: sequences, or pairs, of an epoch.
    """

    def __init__(
        self,
        settings: StreamSettings,
        world_size: int,
        lengths: NDArray[np.int64],
        source_codes: NDArray[np.int16],
        sources: tuple[str | None, ...],
    ) -> None:
        """Prepare.

        Args:
            settings: how sequences become batches.
            world_size: ranks.
            lengths: tokens of each entry: what it adds to a padded batch in which it is the longest.
            source_codes: which source each entry is of: an index into `sources`.
            sources: names in the order of their numbers.

        Raises:
            ValueError: the weights do not fit the sources.
        """
        self._settings, self._world_size, self._lengths = settings, world_size, lengths
        self.num_entries = len(lengths)
        self._shares: list[tuple[NDArray[np.int64], int]] | None = None
        if settings.source_weights is not None:
            counts = _apportion(self.num_entries, settings.source_weights, sources)
            self._shares = [(np.flatnonzero(source_codes == code), count) for code, count in enumerate(counts)]

    def plan(self, epoch: int) -> EpochPlan:
        """Plan an epoch; the same epoch always gives the same plan."""
        settings = self._settings
        order = self._entries(epoch)[_generator(settings.seed, epoch, _SEQUENCES).permutation(self.num_entries)]
        if settings.batch_size is not None:
            step = settings.batch_size * self._world_size
            num_full = self.num_entries // step * step
            if settings.bucket_window > 0:
                order = np.concatenate([self._bucketed(order[:num_full], step, epoch), order[num_full:]])
            cuts = np.append(np.arange(0, self.num_entries, step), self.num_entries)
            return EpochPlan(order, cuts, self._world_size, is_shared=True)
        assert settings.batch_tokens is not None, "StreamSettings demands one of the two"
        window = settings.bucket_window or max(self.num_entries, 1)
        if settings.bucket_window > 0:
            order = order[_sort_in_windows(self._lengths[order], window)]
        cuts = _cut(self._lengths[order], window, settings.batch_tokens)
        if settings.bucket_window > 0:
            order, cuts = _shuffle_batches(order, cuts, cuts[:-1] // window, _generator(settings.seed, epoch, _BATCHES))
        return EpochPlan(order, cuts, self._world_size, is_shared=False)

    def _entries(self, epoch: int) -> NDArray[np.int64]:
        """Select the entries of an epoch, sorted by source where there are weights."""
        if self._shares is None:
            return np.arange(self.num_entries)
        chosen = [
            _passes(members, epoch * count, (epoch + 1) * count, self._settings.seed, _FIRST_SOURCE + number)
            for number, (members, count) in enumerate(self._shares)
        ]
        return np.concatenate(chosen)

    def _bucketed(self, order: NDArray[np.int64], step: int, epoch: int) -> NDArray[np.int64]:
        """Put like lengths together in whole global batches, and shuffle these inside their windows."""
        window = -(-self._settings.bucket_window // step) * step
        order = order[_sort_in_windows(self._lengths[order], window)]
        cuts = np.arange(0, len(order) + 1, step)
        return _shuffle_batches(order, cuts, cuts[:-1] // window, _generator(self._settings.seed, epoch, _BATCHES))[0]


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Open the random numbers of one purpose in one epoch."""
    key, counter = np.array([seed, epoch], dtype=np.uint64), np.array([0, 0, 0, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _apportion(num_entries: int, weights: Mapping[str | None, float], sources: tuple[str | None, ...]) -> list[int]:
    """Share an epoch among the sources by their weights, with the largest remainders rounded up.

    Returns:
        sequences per epoch of each source.

    Raises:
        ValueError: a source without weight, a weight without source, or one too small for a single sequence.
    """
    if set(weights) != set(sources):
        raise ValueError(
            f"stream: source_weights name {sorted(map(str, weights))}, the mask's sequences are of {sorted(map(str, sources))} "
            "(None: rows without a source); give every one of them a weight, 0 to leave it out"
        )
    total = math.fsum(weights.values())
    quotas = [num_entries * weights[source] / total for source in sources]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(sources)), key=lambda number: (counts[number] - quotas[number], number))
    for number in by_remainder[: num_entries - sum(counts)]:
        counts[number] += 1
    if starved := [source for source, count in zip(sources, counts, strict=True) if count == 0 and weights[source] > 0]:
        raise ValueError(
            f"stream: the weight of source {starved[0]!r} gives it less than one of the {num_entries} sequences of an epoch; raise it, or set it to 0"
        )
    return counts


def _passes(members: NDArray[np.int64], begin: int, end: int, seed: int, purpose: int) -> NDArray[np.int64]:
    """Take the stretch from `begin` to `end` of endless passes over a source, each pass a permutation of its own."""
    if begin == end:
        return members[:0]
    size = len(members)
    first, last = begin // size, (end - 1) // size
    passes = [members[_generator(seed, number, purpose).permutation(size)] for number in range(first, last + 1)]
    return np.concatenate(passes)[begin - first * size : end - first * size]


def _sort_in_windows(lengths: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Sort by length inside every window; equal lengths keep their order."""
    return np.lexsort((lengths, np.arange(len(lengths)) // window))


def _cut(lengths: NDArray[np.int64], window: int, budget: int) -> NDArray[np.int64]:
    """Cut into batches, greedily: as many as their number times the longest of them allows; no batch crosses a window."""
    cuts, begin = [0], 0
    while begin < len(lengths):
        most = max(1, budget // max(1, int(lengths[begin])))
        end = min(len(lengths), begin + most, (begin // window + 1) * window)
        padded = np.maximum.accumulate(lengths[begin:end]) * np.arange(1, end - begin + 1)
        begin += max(1, int(np.searchsorted(padded, budget, side="right")))
        cuts.append(begin)
    return np.array(cuts, dtype=np.int64)


def _shuffle_batches(
    order: NDArray[np.int64], cuts: NDArray[np.int64], windows: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffle the batches of every window.

    Args:
        order: sequences.
        cuts: where batches begin, and the end.
        windows: the window of each batch, ascending.
        generator: random numbers.

    Returns:
        (order, cuts) after it.
    """
    moved = np.lexsort((generator.permutation(len(windows)), windows))
    sizes = np.diff(cuts)[moved]
    after = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return order[np.repeat(cuts[:-1][moved] - after[:-1], sizes) + np.arange(len(order))], after
