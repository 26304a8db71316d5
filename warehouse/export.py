"""Exports of a release: masked data for other trainers, with a manifest; a folder is whole or absent."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warehouse import durable
from warehouse.characters import Characters
from warehouse.formats import FORMATS, EmptyExportError
from warehouse.queries import Queries
from warehouse.release import Release
from warehouse.sequences import check_mask
from warehouse.written import Written

MANIFEST = "manifest.json"

_VERSION = 1
"""Of the export's form, as its manifest says."""


@dataclass(frozen=True)
class Export:
    """An export on disk.

    Attributes:
        folder: where it lies.
        manifest: what it holds, as in its manifest.json.
    """

    folder: Path
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer on disk.

    Attributes:
        file: its tokenizer.json.
        digest: identity of it, as a tokenization notes it.
    """

    file: Path
    digest: str


def export(
    queries: Queries, release: Release, mask_id: str, policy: str, form: str, out: Path, *, tokenizer: Tokenizer | None, overwrite: bool
) -> Export:
    """Write a mask and its sequences in the form that another trainer reads.

    Args:
        queries: connection to the release.
        release: the release.
        mask_id: the mask.
        policy: the policy whose mask it is, for the manifest.
        form: one of `formats.FORMATS`.
        out: the folder to write; missing or empty, or an export to be replaced.
        tokenizer: where the tokenizer lies; needed by jsonl alone.
        overwrite: whether an export at `out` is replaced.

    Returns:
        the export.

    Raises:
        FileExistsError: `out` holds something; nothing was written.
        EmptyExportError: the release holds nothing for this format; nothing was written.
        ValueError: an example does not go into this format; nothing was written.
    """
    replaced = _require_free(out, overwrite)
    check_mask(queries.con, mask_id)
    expected = _expected(queries, mask_id, form)
    chosen = FORMATS[form]
    characters = _characters(queries, mask_id, tokenizer) if form == "jsonl" else None
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        written = chosen.write(queries.con, mask_id, partial / chosen.file, characters)
        _require_equal(written, expected, form)
        manifest = _manifest(queries, release, mask_id, policy, form, written, expected, partial / chosen.file)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in (partial / chosen.file, partial / MANIFEST, partial):
            durable.sync(path)
        _put(partial, out, replaced)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Export(out, manifest)


def _characters(queries: Queries, mask_id: str, tokenizer: Tokenizer | None) -> Characters:
    """Load the tokenizer that the mask's sequences were made with.

    Returns:
        the finder of characters.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: it is another one.
    """
    assert tokenizer is not None, "jsonl needs the tokenizer"
    characters = Characters(tokenizer.file)
    made_with = _lineage(queries, mask_id)["tokenizer_digest"]
    if tokenizer.digest != made_with:
        raise ValueError(
            f"{tokenizer.file.parent} holds tokenizer {tokenizer.digest}, the release was made with {made_with}: its characters would be others; "
            "run `alphatoken value`, or bring the old files back"
        )
    return characters


def _lineage(queries: Queries, mask_id: str) -> dict[str, Any]:
    return queries.frame("export/lineage", mask_id=mask_id).row(0, named=True)


def _require_free(out: Path, overwrite: bool) -> bool:
    """Refuse a place that holds anything but an export that may be replaced.

    Returns:
        whether an export is there.

    Raises:
        FileExistsError: so it does.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; --out names a folder")
    manifest = out / MANIFEST
    try:
        about = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    except ValueError:
        about = {}
    ours = isinstance(about, dict) and "alphatoken_export" in about
    strangers = sorted({path.name for path in out.iterdir()} - {MANIFEST, *(about["files"] if ours else ())})
    if not ours or strangers:
        raise FileExistsError(f"{out} holds {strangers[0] if strangers else MANIFEST}, which is no export's; give an empty or a new folder")
    if not overwrite:
        raise FileExistsError(f"{out} holds an export of release {about['release_id']}; give --overwrite to replace it, or another folder")
    return True


def _expected(queries: Queries, mask_id: str, form: str) -> dict[str, int]:
    """Count by SQL what the export must hold.

    Returns:
        numbers of examples and sequences; numbers of tokens and supervised tokens, duplicates counted.

    Raises:
        EmptyExportError: nothing.
    """
    branches = queries.frame("export/count_supervised", mask_id=mask_id)
    wanted = branches.filter(branches["branch"].is_in(FORMATS[form].branches))
    if wanted.is_empty():
        found = ", ".join(branches["branch"]) or "none"
        advice = "preference data are needed; for these data take trl-sft" if form == "trl-dpo" else "take another format"
        raise EmptyExportError(
            f"{form} takes examples with the branches {' and '.join(FORMATS[form].branches)}; those of this release have: {found}; {advice}"
        )
    sums = wanted.drop("branch").sum().row(0, named=True)
    return {**sums, "num_examples": int(wanted["num_examples"].max())}  # type: ignore[arg-type]  # both branches are of the same examples


def _require_equal(written: Written, expected: dict[str, int], form: str) -> None:
    if written.num_supervised_tokens != expected["num_supervised"]:
        raise RuntimeError(
            f"{form}: {written.num_supervised_tokens} supervised tokens were written, the release has {expected['num_supervised']}; this is a fault of ours"
        )


def _manifest(
    queries: Queries, release: Release, mask_id: str, policy: str, form: str, written: Written, expected: dict[str, int], file: Path
) -> dict[str, Any]:
    lineage = _lineage(queries, mask_id)
    settings = lineage.pop("settings")
    return {
        "alphatoken_export": _VERSION,
        "format": form,
        "release_id": release.release_id,
        "mask_id": mask_id,
        "policy": policy,
        "policy_settings": json.loads(settings) if settings else None,
        **lineage,
        "counts": {"num_examples": expected["num_examples"], "num_sequences": expected["num_sequences"], **asdict(written)},
        "files": {file.name: {"num_bytes": file.stat().st_size, "sha256": _sha256(file)}},
        "reading": FORMATS[form].reading,
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _put(partial: Path, out: Path, replaced: bool) -> None:
    """Rename the finished folder into its place; the one that it replaces goes last."""
    old = out.with_name(f".{out.name}.{os.getpid()}.replaced")
    if replaced:
        out.rename(old)
    partial.rename(out)
    durable.sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)
