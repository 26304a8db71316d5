"""Ingest: training examples from files into normalised rows; what cannot be used is counted and kept aside with its reason."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from warehouse.digests import digest
from warehouse.layouts import BadRow, Normaliser, canonical_json, describe_layouts
from warehouse.readers import READERS, entries, read_rows, read_txt

RAW_CHARACTERS = 500
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
        max_rejected_share: Largest share of bad rows among the rows read, 0 to 1; more stop the run.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str | tuple[str, ...]
    split: str = "train"
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    offset: int = 0
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
        ValueError: a file cannot be read, no known layout fits a file, its rows are preferences, or no example is left.

    A path that leads nowhere raises FileNotFoundError (from `_find_files`).
    """
    collector = _Collector(Normaliser(settings.columns))
    stop = None if settings.limit is None else settings.offset + settings.limit
    for file, row in itertools.islice(read_rows(settings, base, READERS), settings.offset, stop):
        collector.add(file, *row)
    collector.check_layouts()
    ingested = collector.result()
    if len(ingested.rejected) > settings.max_rejected_share * ingested.num_rows:
        raise TooManyRejectedRows(ingested, settings)
    if ingested.examples.is_empty():
        raise ValueError(
            f"{settings.path}: no example among {ingested.num_rows} rows, {len(ingested.rejected)} of them rejected (offset {settings.offset}); "
            "check that the path is the right one, is not empty, and has more rows than `offset`"
        )
    return ingested


def read_texts(settings: SourceSettings, base: Path) -> list[str]:
    r"""Read plain text, such as a retention text, in order of first appearance, stripped, without empty ones and duplicates.

    A .txt file is split at lines that consist of <|endoftext|>, or at blank lines if there are none. Rows of other files give
    their `text` column, else prompt and response joined by a newline. `limit` and `offset` count texts as they are read.

    Args:
        settings: where the texts are.
        base: folder that relative paths start from.

    Returns:
        Distinct texts.

    Raises:
        ValueError: a row has neither a text nor a prompt and response, or no text is left.
    """
    normalise = Normaliser(settings.columns)
    texts: dict[str, None] = {}
    stop = None if settings.limit is None else settings.offset + settings.limit
    rows = read_rows(settings, base, {**READERS, ".txt": read_txt})
    for file, (line, row, _) in itertools.islice(rows, settings.offset, stop):
        try:
            if isinstance(row, BadRow):
                raise row
            text = _text_of(row, normalise)
            text.encode()
        except (BadRow, UnicodeEncodeError) as error:
            raise ValueError(
                f"{file}:{line}: not a text ({error}); expected a column `text`, or `prompt` and `response`; correct the row or remove it"
            ) from None
        texts.setdefault(text.strip())
    texts.pop("", None)
    if not texts:
        raise ValueError(f"{settings.path}: no text in it; expected at least one that is not blank; check the path")
    return list(texts)


def _text_of(row: Any, normalise: Normaliser) -> str:
    if not isinstance(row, dict):
        raise BadRow("not an object")
    if "text" in row:
        if not isinstance(row["text"], str | None):
            raise BadRow("wrong type", "text is not text")
        return row["text"] or ""
    content = json.loads(normalise(row)[0])
    if "messages" in content:
        raise BadRow("wrong type", "a conversation")
    return f"{content['prompt']}\n{content['response']}"


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

    def __init__(self, normalise: Normaliser) -> None:
        self.normalise = normalise
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
            if self.normalise.is_preference(row):
                raise ValueError(
                    f"{file}:{line}: a preference row (columns {', '.join(row)}); preference data are not handled by this command yet. "
                    'To train on the chosen responses alone, set columns: {"prompt": "prompt", "response": "chosen"}'
                )
            content, source, extra = self.normalise(row)
        except BadRow as bad:
            self._reject(file, line, row, raw, bad)
        else:
            self.fitting.add(file)
            self.good.add(digest("example", content), content, source, extra, file, line)

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
        good = self.good.frame()
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
