"""Readers of files and data sets, row by row: JSON lines, JSON, CSV, Parquet, text, Hugging Face data sets."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow
import pyarrow.parquet

from warehouse.layouts import BadRow

if TYPE_CHECKING:
    from warehouse.ingest import SourceSettings

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

Row = tuple[int, Any, str]  # line or row number from 1; the parsed row, or the BadRow it is; the text it was, where there is one


def entries(path: str | Sequence[str]) -> tuple[str, ...]:
    """Return one or several paths as a tuple."""
    return (path,) if isinstance(path, str) else tuple(path)


def read_rows(settings: "SourceSettings", base: Path, readers: Mapping[str, Callable[[Path], Iterator[Row]]]) -> Iterator[tuple[str, Row]]:
    """Yield each row with the name of its file, in the order that `limit` and `offset` of the settings count."""
    for entry in entries(settings.path):
        found = base / Path(entry).expanduser()
        if (found / "dataset_dict.json").is_file() or (found / "state.json").is_file():
            yield from _read_saved_dataset(found, _label(found, base), settings)
        elif not found.exists() and _may_be_hub_name(entry):
            yield from _read_hub_dataset(entry, found, settings)
        else:
            for file in _find_files(entry, found, base, readers):
                label = _label(file, base)
                for row in readers[_kind(file)](file):
                    yield label, row


def _label(file: Path, base: Path) -> str:
    return (file.relative_to(base) if file.is_relative_to(base) else file).as_posix()


def _kind(file: Path) -> str:
    """Suffix that says how to read a file, without the .gz that `_open` undoes."""
    kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    return kind.lower()


def _may_be_hub_name(entry: str) -> bool:
    """Whether to ask the hub: not for data files, nor for what the current folder holds, which `datasets` would read instead."""
    is_file_name = _kind(Path(entry)) in {*READERS, ".txt", ".tsv", ".zst", ".zip", ".arrow", ".xlsx"}
    return HUB_NAME.fullmatch(entry) is not None and not is_file_name and not Path(entry).exists()


def _find_files(entry: str, found: Path, base: Path, kinds: Mapping[str, Any]) -> list[Path]:
    """List the files of an entry by name; below a folder only those of a known kind, without hidden ones and metadata.

    Returns:
        Files sorted by path, all of a kind in `kinds`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a glob matches nothing, a folder holds no readable file, or a file is of an unknown kind.
    """
    if found.is_dir():
        below = sorted(file for file in found.rglob("*") if file.is_file())
        shown = [file for file in below if not any(part[0] in "._" for part in file.relative_to(found).parts)]
        files = [file for file in shown if _kind(file) in {*kinds, ".zst"} and not file.name.startswith(("dataset_info", "state.json"))]
        if not files:
            raise ValueError(
                f"{found}: a folder without data files; expected {', '.join(kinds)} files, or a folder written by save_to_disk"
            )
    elif found.is_file():
        files = [found]
    elif any(character in entry for character in "*?["):
        pattern = Path(entry).expanduser()
        matches = glob(str(pattern if pattern.is_absolute() else Path(escape(str(base))) / pattern), recursive=True)
        files = [file for file in map(Path, sorted(matches)) if file.is_file()]
        if not files:
            raise ValueError(
                f"{entry}: the glob matches no file; looked in {base.resolve()}; correct it, or check that the files are there"
            )
    else:
        raise FileNotFoundError(
            f"{entry}: no such file or folder; looked for {found.absolute()}; expected a file, folder, glob or hub name. "
            "Relative paths start from the folder of the configuration file"
        )
    for file in files:
        if _kind(file) == ".zst":
            raise ValueError(f"{file}: zstd files are not read; unpack it first: zstd -d {file.name}")
        if _kind(file) not in kinds or (file.suffix == ".gz" and _kind(file) == ".parquet"):
            raise ValueError(f"{file}: unknown kind of file; expected one of {', '.join(kinds)}, text files also with .gz")
    return files


def _open(file: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _unreadable(file: Path | str, error: Exception, advice: str) -> ValueError:
    return ValueError(f"{file}: cannot be read ({type(error).__name__}: {error}); {advice}")


def _read_jsonl(file: Path) -> Iterator[Row]:
    with _open(file) as stream:
        try:
            for line, data in enumerate(stream, 1):
                if row := _parse_line(line, data):
                    yield row
        except (OSError, EOFError, zlib.error) as error:  # a cut or corrupt .gz
            raise _unreadable(file, error, "make or fetch it again") from error


def _parse_line(line: int, data: bytes) -> Row | None:
    try:
        text = data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError:
        return line, BadRow("not UTF-8"), data.decode(errors="backslashreplace")
    if not text or text.isspace():
        return None
    try:
        row, end = _scan(text, 0)  # json.loads without its searches for white space
        if not text[end:].strip(" \t\n\r"):
            return line, row, text
    except StopIteration:
        pass  # white space in front, or no JSON
    except (ValueError, RecursionError):
        return line, BadRow("not JSON"), text
    try:
        return line, json.loads(text), text
    except (ValueError, RecursionError):
        return line, BadRow("not JSON"), text


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # public in CPython, absent in its stubs


def _read_whole(file: Path) -> str:
    try:
        with _open(file) as stream:
            return stream.read().decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _unreadable(file, error, "expected UTF-8 text; convert it, or make it again") from error


def _read_json(file: Path) -> Iterator[Row]:
    text = _read_whole(file)
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, error, "expected one JSON array of objects; name it .jsonl if each line is an object") from error
    if isinstance(rows, dict):
        rows = rows.get("data")
    if not isinstance(rows, list):
        raise ValueError(f'{file}: expected an array of objects or {{"data": [...]}}; name it .jsonl if each line is an object')
    for number, row in enumerate(rows, 1):
        yield number, row, ""


def _read_csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the csv module's own limit is 128 KiB, which long responses exceed
    # Bytes that are not UTF-8 become half surrogates, which the normaliser rejects row by row.
    with _open(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error):  # one quote too many may have swallowed any number of rows
                    raise ValueError(f"{file}:{line}: a quote opened in this row is never closed; close or double it") from None
                yield line, BadRow("ragged row", str(error)), "(quotes inside a quoted field must be doubled)"
                continue
            except (OSError, EOFError, zlib.error) as error:
                raise _unreadable(file, error, "make or fetch it again") from error
            if cells is None:
                return
            if header is None and cells:
                header = _check_header(file, cells)
            elif header is not None and len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True)), ""
            elif header is not None and cells:
                yield line, BadRow("ragged row", f"{len(cells)} fields, header has {len(header)}"), ",".join(cells)


def _check_header(file: Path, header: list[str]) -> list[str]:
    if len(set(header)) < len(header):
        raise ValueError(f"{file}: column names repeat in the header {header}; expected a header row of distinct names; rename them")
    return header


def _read_parquet(file: Path) -> Iterator[Row]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=4096):
                for row in pl.DataFrame(pl.from_arrow(batch)).iter_rows(named=True):
                    number += 1
                    yield number, _without_nulls(row), ""
    except (OSError, pyarrow.ArrowException, pl.exceptions.PolarsError) as error:
        raise _unreadable(file, error, "check that it is a whole Parquet file") from error


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Drop null keys inside the columns: Arrow gives every object of a column all keys and fills those it lacked with null."""
    return {key: _drop_nulls(value) if isinstance(value, list | dict) else value for key, value in row.items()}


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value


def read_txt(file: Path) -> Iterator[Row]:
    """Yield the texts of a file, split at lines of <|endoftext|>, at blank lines where there are none."""
    text = _read_whole(file).replace("\r\n", "\n")
    ends = r"(?m)^[^\S\n]*<\|endoftext\|>[^\S\n]*$"
    separator = ends if re.search(ends, text) else r"\n\s*\n"
    for number, part in enumerate(re.split(separator, text), 1):
        yield number, {"text": part}, ""


def _read_saved_dataset(folder: Path, label: str, settings: "SourceSettings") -> Iterator[tuple[str, Row]]:
    import datasets  # here, as it takes most of a second and most runs read plain files

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise _unreadable(folder, error, "expected a folder written by save_to_disk; write it again") from error
    if isinstance(loaded, datasets.DatasetDict):
        if settings.split not in loaded:
            raise ValueError(f"{folder}: no split {settings.split!r}; it has {', '.join(loaded)}; set `split` to one of them")
        label, loaded = f"{label}/{settings.split}", loaded[settings.split]
    yield from _read_dataset(loaded, label)


def _read_hub_dataset(entry: str, found: Path, settings: "SourceSettings") -> Iterator[tuple[str, Row]]:
    import datasets  # here for the same reason

    try:
        loaded = datasets.load_dataset(entry, settings.name, split=settings.split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{entry}: not found as file or folder ({found.absolute()}), and as hub data set `datasets` answered "
            f"{type(error).__name__}: {error}. Correct `path` (or `name` and `split`), or download the data set and give its folder"
        ) from error
    yield from _read_dataset(loaded, "/".join(filter(None, (entry, settings.name, settings.split))))


def _read_dataset(loaded: Any, label: str) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a Hugging Face data set; images and sounds stay undecoded bytes."""
    for column, feature in loaded.features.items():
        if type(feature).__name__ != "Json" and getattr(feature, "decode", False):
            loaded = loaded.cast_column(column, type(feature)(decode=False))
    for number, row in enumerate(loaded.with_format(None), 1):
        yield label, (number, _without_nulls(row), "")


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
