"""Pinned artefacts: looked up by key, made where missing, saved, then identified by their content."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.settings import CODE_VERSIONS
from tasks import identities
from tasks.runs import Run
from warehouse import durable
from warehouse.connect import Warehouse

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alphatoken")


class Artifacts:
    """Pinned artefacts of one run: looked up by key, made where missing or where a refresh asks for it."""

    def __init__(self, warehouse: Warehouse, run: Run, snapshot_id: str, *, refresh: bool) -> None:
        """Open the artefacts of a warehouse.

        Args:
            warehouse: the open warehouse.
            run: the run.
            snapshot_id: training snapshot that newly made artefacts are noted with.
            refresh: make everything anew.
        """
        self._warehouse = warehouse
        self._run = run
        self._snapshot_id = snapshot_id
        self._refresh = refresh
        self._folder = warehouse.folder / "artifacts"
        self.num_made = 0

    def get(
        self, kind: str, key: str, settings: Mapping[str, Any], make: Callable[[Path], tuple[str, dict[str, Any]]]
    ) -> tuple[str, Path, Any]:
        """Return an artefact, making it first where it is missing.

        Args:
            kind: warmup, texts, fisher, adapt, stab or alignment.
            key: identity of what it is made of (not of the training snapshot).
            settings: what the key is the digest of.
            make: writes the artefact to a path and returns (content digest, details).

        Returns:
            (content digest, path, details).
        """
        row = self._warehouse.one("artifacts/get_artifact", artifact_key=key)
        if row is not None and not self._refresh:
            path = self._warehouse.folder / row[1]
            if path.exists():
                return str(row[0]), path, json.loads(row[2])
            logger.warning("the %s at %s is gone; making it again, which may change every value that depends on it", kind, path)
        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = {"warmup": "", "texts": ".json", "alignment": ".json"}.get(kind, ".safetensors")
        fresh = self._folder / f".{kind}-partial{suffix}"
        shutil.rmtree(fresh, ignore_errors=True)  # what a killed run left
        content, details = make(fresh)
        path = self._folder / f"{kind}-{content[:16]}{suffix}"
        _settle(fresh, path)
        with self._warehouse.transaction():
            self._warehouse.run("artifacts/delete_artifact", artifact_key=key)
            self._warehouse.run(
                "artifacts/insert_artifact",
                artifact_key=key, kind=kind, content_digest=content, path=str(path.relative_to(self._warehouse.folder)),
                settings=json.dumps({**settings, "code_version": CODE_VERSIONS[identities.MADE_BY[kind]]}, sort_keys=True), details=json.dumps(details), snapshot_id=self._snapshot_id, run_id=self._run.run_id,
            )  # fmt: skip
        self.num_made += 1
        return content, path, details


def _settle(fresh: Path, path: Path) -> None:
    """Move a finished artefact to the name of its content, on disk before the warehouse names it; what has that name goes, as it may be damaged."""
    durable.sync_tree(fresh)
    replaced = path.with_name(f".{path.name}-replaced")
    shutil.rmtree(replaced, ignore_errors=True)  # what a killed run left
    if path.is_dir():  # a folder cannot be moved over another
        path.rename(replaced)
    fresh.replace(path)
    durable.sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def saved(tensors: "dict[str, Tensor]", details: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Save a direction or a Fisher.

    Args:
        tensors: parameter name to tensor.
        details: what is kept with the artefact.
        path: file to write.

    Returns:
        (content digest; the details with norm and shares of energy).

    Raises:
        ValueError: the norm is not finite.
    """
    from models.directions import content_digest, energy_shares, save_tensors
    from models.probe import total_norm

    norm = total_norm(tensors.values())
    if not math.isfinite(norm):
        raise ValueError(
            f"{path.name.strip('.')}: the norm is {norm}; the model's gradients are not finite. Check the model, or lower the "
            "learning rate of the warm-up"
        )
    save_tensors(tensors, path)
    return content_digest(tensors), {"norm": norm, "energy_shares": energy_shares(tensors), **details}
