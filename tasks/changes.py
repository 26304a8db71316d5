"""What the parameters of a deployment may change of its configuration file: every setting, each optional, with meaning, type and bounds.

Prefect's user interface draws its form from the JSON schema of `Changes`. A field left empty means what the file says.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from tasks.settings import Configuration

BOUNDS: dict[str, dict[str, float]] = {
    "scoring.batch_tokens": {"ge": 1},
    "scoring.low_rank.rank": {"ge": 1},
    "scoring.low_rank.energy": {"gt": 0, "le": 1},
    "training.batch_size": {"ge": 1},
    "training.gradient_accumulation": {"ge": 1},
    "training.save_steps": {"ge": 1},
    "training.bucket_window": {"ge": 0},
    "training.max_steps": {"ge": 1},
    "training.epochs": {"gt": 0},
    "training.learning_rate": {"gt": 0},
    "warehouse.lock_timeout_s": {"ge": 0},
    "warehouse.keep_releases": {"ge": 1},
    "alerts.min_tokens": {"ge": 1},
    "alerts.kept_share.limit": {"ge": 0},
    "alerts.psi.limit": {"ge": 0},
    "alerts.ks.limit": {"ge": 0},
    "alerts.added_psi.limit": {"ge": 0},
    "alerts.null_share.limit": {"ge": 0},
    "alerts.bad_rows.limit": {"ge": 0},
    "workers.num_workers": {"ge": 1},
    "workers.torch_threads": {"ge": 1},
    "workers.shard_parts": {"ge": 1},
    "workers.retries": {"ge": 0},
}
"""Bounds that a form can show. The settings check them themselves, and more; a test holds the two equal."""

_NOT_HERE = {"base", "schedule"}
"""Settings that a run's parameters cannot change: where the file lies, and when runs start."""


def _model(kind: type, where: str) -> type[BaseModel]:
    """Make a model with the fields of a settings class, all optional."""
    hints, meanings = typing.get_type_hints(kind), _meanings(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name not in _NOT_HERE:
            key = f"{where}{field.name}"
            bounds: dict[str, Any] = dict(BOUNDS.get(key, {}))
            told = Field(default=None, description=meanings.get(field.name), title=field.name, **bounds)
            fields[field.name] = (_optional(hints[field.name], key), told)
    name = "".join(word.capitalize() for word in re.split(r"[._]", where.rstrip("."))) + "Changes"
    made: type[BaseModel] = create_model(
        name, __config__=ConfigDict(extra="forbid", title=name), __doc__=(inspect.getdoc(kind) or "").splitlines()[0], **fields
    )
    return made


def _optional(hint: Any, key: str) -> Any:
    """Replace settings classes in a type by their models, and allow None."""
    if dataclasses.is_dataclass(hint):
        return _model(typing.cast("type", hint), f"{key}.") | None
    if typing.get_origin(hint) is Mapping:
        values = typing.get_args(hint)[1]
        return dict[str, _model(values, f"{key}.")] | None if dataclasses.is_dataclass(values) else dict[str, values] | None  # type: ignore[misc, valid-type, arg-type]
    if isinstance(hint, types.UnionType):
        parts = [_optional(part, key) for part in typing.get_args(hint)]
        return typing.Union[tuple(parts)]  # ruff: ignore[non-pep604-annotation-union] - of a list of types
    return hint | None if isinstance(hint, type) else typing.Optional[hint]  # ruff: ignore[non-pep604-annotation-optional] - of a type that is a value


def _meanings(kind: type) -> dict[str, str]:
    """Read the `Attributes:` of a settings class."""
    text = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in found}


if typing.TYPE_CHECKING:

    class Changes(BaseModel):
        """What a run changes of its configuration file."""

else:
    Changes = _model(Configuration, "")


def overrides(changes: Changes | None) -> list[str]:
    """Write changes as overrides, which `tasks.settings.load` checks as it checks the file.

    Returns:
        `section.key=value` each.
    """
    return [] if changes is None else list(_leaves(changes, ""))


def _leaves(value: Any, where: str) -> Iterator[str]:
    """Yield what was set below a key: models by their fields, policies by their names, everything else whole."""
    if isinstance(value, BaseModel):
        below = {name: getattr(value, name) for name in type(value).model_fields if getattr(value, name) is not None}
    elif isinstance(value, Mapping) and any(isinstance(one, BaseModel) for one in value.values()):
        below = dict(value)
    else:
        yield f"{where}={json.dumps(value, default=list)}"
        return
    for name, one in below.items():
        yield from _leaves(one, f"{where}.{name}" if where else name)
