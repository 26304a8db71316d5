"""Ingest: training examples from files into normalised rows; what cannot be used is counted and kept aside with its reason."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from warehouse.digests import example_identity
from warehouse.layouts import BadRow, Normaliser, canonical_json, describe_layouts
from warehouse.preferences import PAIR_BEGINS, Kind
from warehouse.ratings import RAW_CHARACTERS, RatedResponses, RatingSettings
from warehouse.readers import READERS, entries, read_rows
from warehouse.texts import read_texts as read_texts

CHUNK_ROWS = 10_000  # rows held as Python objects before they move to polars
GOOD_SCHEMA = {"example_id": pl.String, "content": pl.String, "source": pl.String, "extra": pl.String, "file": pl.String, "line": pl.UInt32}
REJECTED_SCHEMA = {"file": pl.String, "line": pl.UInt32, "reason": pl.String, "raw": pl.String}


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One data set: where its rows are and how to read them.

    Attributes:
        path: File, glob, folder (of files, or written by `save_to_disk`) or hub name; or several, read in the order given. A
            file listed twice is read twice and doubles the multiplicity of its examples.
        split: Split of a Hugging Face data set that has splits; files have none.
        name: Configuration of a hub data set, such as "main" for openai/gsm8k.
        columns: Role -> column, for columns that no known layout names: {"instruction": "instruction", "input": "context",
            "output": "response"}.
        limit: Rows to take, good or bad, in the order they are read: paths as listed, files of a folder or glob by name, rows
            as they lie.
        offset: Rows to skip before the first one taken, in the same order; blank lines are not rows.
        ratings: Turns rated responses to the same prompt into pairs; None = rows are examples as they are.
        max_rejected_share: Largest share of bad rows among the rows read, 0 to 1; more stop the run.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str | tuple[str, ...]
    split: str = "train"
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    offset: int = 0
    ratings: RatingSettings | None = None
    max_rejected_share: float = 0.05

    def __post_init__(self) -> None:
        """Check bounds.

        Raises:
            ValueError: a setting is outside its bounds.
        """
        if not self.path or not all(entries(self.path)):
            raise ValueError(f"path: got {self.path!r}, expected a file, glob, folder or hub name, or a list of them; name at least one")
        if not self.split or self.name == "":
            raise ValueError(
                f"split, name: got {self.split!r}, {self.name!r}; expected non-empty names (leave `name` out if there is none)"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: got {self.limit}, expected at least 1 row; leave it out to take all rows")
        if self.offset < 0:
            raise ValueError(f"offset: got {self.offset}, expected 0 or more rows to skip")
        if not 0 <= self.max_rejected_share <= 1:
            raise ValueError(f"max_rejected_share: got {self.max_rejected_share}, expected a share between 0 and 1, such as 0.05")
        Normaliser(self.columns)


@dataclass(frozen=True)
class Ingested:
    """What one data set holds.

    Attributes:
        examples: example_id, content (canonical JSON), source, extra (canonical JSON; both NULL where a row has none), multiplicity
            (rows with this content), file, line; one row per distinct content, sorted by example_id. Of duplicates, `file` and
            `line` are those of the first as read, `source` the smallest, `extra` the smallest that goes with it: independent of order.
        rejected: file, line, reason, raw (first 500 characters of "detail | row"), one row per bad row, as read.
        num_rows: rows read, good and bad, before duplicates are merged.

    `file` is relative to the configuration's folder. `line` counts lines of JSONL and CSV files and rows of all others, from 1.
    """

    examples: pl.DataFrame
    rejected: pl.DataFrame
    num_rows: int

    @property
    def kind(self) -> Kind:
        """What the examples are, as the first one says; `read_examples` gives examples of one kind."""
        return "preference" if self.examples["content"].head(1).str.starts_with(PAIR_BEGINS).any() else "sft"


class TooManyRejectedRows(ValueError):  # ruff: ignore[error-suffix-on-exception-name] - says what happened; it is a ValueError by its base
    """More rows are bad than the settings allow; `ingested` holds what was read."""

    def __init__(self, ingested: Ingested, settings: SourceSettings) -> None:
        self.ingested = ingested
        rejected = ingested.rejected
        reasons = rejected["reason"].value_counts(sort=True).rows()
        first = [f"{file}:{line} ({reason}): {raw[:80]}" for file, line, reason, raw in rejected.head(3).iter_rows()]
        super().__init__(
            f"{len(rejected)} of {ingested.num_rows} rows cannot be used; max_rejected_share = {settings.max_rejected_share:g} allows "
            f"{int(settings.max_rejected_share * ingested.num_rows)}. Reasons: {', '.join(f'{count} {reason}' for reason, count in reasons)}.\n"
            + "\n".join(f"  {line}" for line in first)
            + "\nCorrect these rows, say with `columns` which columns to read, or raise max_rejected_share to go on without them."
        )


def read_examples(settings: SourceSettings, base: Path) -> Ingested:
    """Read a data set into normalised, distinct examples.

    Rows stream through Python in chunks, so memory follows the distinct text. Identity is the digest of the content alone.

    Args:
        settings: where the rows are and how to read them.
        base: folder that relative paths start from, that of the configuration file.

    Returns:
        The examples and the rejected rows.

    Raises:
        TooManyRejectedRows: more rows are bad than `max_rejected_share` allows.
        ValueError: a file cannot be read, no known layout fits a file, pairs are among single responses, or no example is left.

    A path that leads nowhere raises FileNotFoundError (from `_find_files`).
    """
    collector = _Collector(Normaliser(settings.columns), settings.ratings)
    stop = None if settings.limit is None else settings.offset + settings.limit
    for file, row in itertools.islice(read_rows(settings, base, READERS), settings.offset, stop):
        collector.add(file, *row)
    collector.check_layouts()
    ingested = collector.result()
    _check_kind(ingested, settings)
    if len(ingested.rejected) > settings.max_rejected_share * ingested.num_rows:
        raise TooManyRejectedRows(ingested, settings)
    if ingested.examples.is_empty():
        raise ValueError(
            f"{settings.path}: no example among {ingested.num_rows} rows, {len(ingested.rejected)} of them rejected (offset {settings.offset}); "
            "check that the path is the right one, is not empty, and has more rows than `offset`"
        )
    return ingested


def _check_kind(ingested: Ingested, settings: SourceSettings) -> None:
    """Refuse a data set with both pairs and single responses.

    Raises:
        ValueError: so it is; names a row of each.
    """
    is_pair = ingested.examples["content"].str.starts_with(PAIR_BEGINS)
    if is_pair.any() and not is_pair.all():
        (pair_file, pair_line), (file, line) = (
            ingested.examples.filter(mask).select("file", "line").row(0) for mask in (is_pair, ~is_pair)
        )
        raise ValueError(
            f"{settings.path}: {is_pair.sum()} pairs of responses (the first {pair_file}:{pair_line}) among {(~is_pair).sum()} single responses (the "
            f"first {file}:{line}); expected one kind in a data set. Put them into files of their own, or, to take the chosen responses alone, "
            'set columns: {"prompt": "prompt", "response": "chosen"}'
        )


class _Rows:
    """Rows gathered as tuples and moved to polars chunk by chunk."""

    def __init__(self, schema: Mapping[str, type[pl.DataType]]) -> None:
        self.schema = schema
        self.pending: list[tuple[Any, ...]] = []
        self.frames = [pl.DataFrame(schema=schema)]

    def add(self, *row: Any) -> None:
        self.pending.append(row)
        if len(self.pending) == CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self.pending, strict=True)
        self.frames.append(
            pl.DataFrame([pl.Series(name, values, kind) for (name, kind), values in zip(self.schema.items(), columns, strict=True)])
        )
        self.pending.clear()

    def frame(self) -> pl.DataFrame:
        if self.pending:
            self._flush()
        return pl.concat(self.frames)


class _Collector:
    """Sorts rows into good and rejected ones and remembers which files fit no layout at all."""

    def __init__(self, normalise: Normaliser, ratings: RatingSettings | None) -> None:
        self.normalise = normalise
        self.rated = None if ratings is None else RatedResponses(ratings)
        self.good = _Rows(GOOD_SCHEMA)
        self.rejected = _Rows(REJECTED_SCHEMA)
        self.num_rows = 0
        self.fitting: set[str] = set()
        self.columns: dict[str, dict[str, None]] = {}  # by file: columns of the rows that fit no layout

    def add(self, file: str, line: int, row: Any, raw: str) -> None:
        self.num_rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("not an object")
            if self.rated is not None:
                others, rating = self.rated.split(row)
                content, source, extra = self.normalise(others)
                self.rated.add(content, rating, source, extra, file, line, raw.strip() or canonical_json(row))
                self.fitting.add(file)
                return
            content, source, extra = self.normalise(row)
        except BadRow as bad:
            self._reject(file, line, row, raw, bad)
        else:
            self.fitting.add(file)
            self.good.add(example_identity(content), content, source, extra, file, line)

    def _reject(self, file: str, line: int, row: Any, raw: str, bad: BadRow) -> None:
        if bad.reason == "missing column":
            self.columns.setdefault(file, {}).update(dict.fromkeys(row))
        elif isinstance(row, dict):
            self.fitting.add(file)
        raw = raw.strip() or canonical_json(row)
        raw = (f"{bad.detail} | {raw}" if bad.detail else raw)[:RAW_CHARACTERS]
        self.rejected.add(file, line, bad.reason, raw.encode(errors="backslashreplace").decode()[:RAW_CHARACTERS])

    def check_layouts(self) -> None:
        for file, columns in self.columns.items():
            if file not in self.fitting:
                raise ValueError(
                    f"{file}: no known layout fits any row; columns found: {', '.join(columns) or 'none'}. Known layouts: {describe_layouts()}. "
                    'Name the columns to read, for example columns: {"prompt": "<column of the prompt>", "response": "<column of the response>"}'
                )

    def result(self) -> Ingested:
        if self.rated is not None:
            for content, source, extra, file, line in self.rated.pairs():
                self.good.add(example_identity(content), content, source, extra, file, line)
            for unpaired in self.rated.unpaired():
                self.rejected.add(*unpaired)
        good = self.good.frame()
        if good["example_id"].n_unique() == len(good):  # nothing to merge
            once = pl.lit(1, pl.UInt32).alias("multiplicity")
            examples = good.sort("example_id").select("example_id", "content", "source", "extra", once, "file", "line")
            return Ingested(examples, self.rejected.frame(), self.num_rows)
        first = pl.col("seq").arg_min()
        examples = (
            good
            .with_row_index("seq")
            .sort("example_id", "source", "extra", nulls_last=True)
            .group_by("example_id", maintain_order=True)
            .agg(
                pl.first("content", "source", "extra"),
                pl.len().cast(pl.UInt32).alias("multiplicity"),
                pl.col("file", "line").get(first),
            )
        )
        return Ingested(examples, self.rejected.frame(), self.num_rows)
