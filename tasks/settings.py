"""The configuration of a run: one YAML file, checked, every unknown key refused with the nearest known one named."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from models.chat import TokenizeSettings
from models.settings import ModelSettings, ScoringSettings
from models.training_settings import PreferenceSettings, TrainingSettings
from tasks.operations import ScheduleSettings, WorkerSettings
from tasks.study_settings import StudySettings
from warehouse.alert_settings import AlertSettings
from warehouse.ingest import SourceSettings
from warehouse.policies import BUILT_IN, PolicySettings
from warehouse.settings import WarehouseSettings


class ConfigurationError(ValueError):
    """The configuration cannot be used; the message says what came, what was expected and what to do."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data sets.

    Attributes:
        train: examples whose tokens are valued and trained on.
        validation: a small clean sample of the target task; makes the adaptation direction, and is what `keep: auto`, so the default
            policy, compares with.
        evaluation: other examples of the target task; measures training. Must not overlap with validation.
        retention: text that the reference model knows. One half of it, by content, is compared with the stability direction, the other half
            measures forgetting.
        tokenize: how examples become tokens.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    train: SourceSettings
    validation: SourceSettings
    evaluation: SourceSettings | None = None
    retention: SourceSettings | None = None
    tokenize: TokenizeSettings = field(default_factory=TokenizeSettings)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything a run depends on.

    Attributes:
        data: the data sets.
        model: the models.
        scoring: how tokens are valued.
        policy: named policies; `default`, `random`, `full` and, for `value_propagation`, `paper` exist without being named.
        training: training on a mask.
        preference: preference optimization, for pairs of responses.
        warehouse: the store.
        alerts: figures of the data that are watched.
        schedule: when runs start.
        workers: who shares the scoring.
        study: which trainings a study compares.
        base: folder that relative paths start from: that of the configuration file.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    data: DataSettings
    model: ModelSettings
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    policy: Mapping[str, PolicySettings] = field(default_factory=dict)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    preference: PreferenceSettings = field(default_factory=PreferenceSettings)
    warehouse: WarehouseSettings = field(default_factory=WarehouseSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    study: StudySettings = field(default_factory=StudySettings)
    base: Path = Path()

    @property
    def warehouse_folder(self) -> Path:
        """The warehouse's folder."""
        return (self.base / Path(self.warehouse.path).expanduser()).resolve()

    def policies(self) -> dict[str, PolicySettings]:
        """Return the policies that a run applies, by name: of all there are, those that fit `scoring.estimator`."""
        return {name: one for name, one in self._all_policies().items() if one.estimator in {None, self.scoring.estimator}}

    @property
    def keeps_auto(self) -> bool:
        """Whether a policy compares the training data with the validation set to decide how much to keep."""
        return any(one.compares for one in self.policies().values())

    @property
    def needs_folds(self) -> bool:
        """Whether such a policy reads values along D_A, of which the validation set is a part."""
        return any(one.needs_folds for one in self.policies().values())

    def _all_policies(self) -> dict[str, PolicySettings]:
        """Return all policies by name: those of the configuration over the built-in ones, `random` at the rate of `default`."""
        default = self.policy.get("default", BUILT_IN["default"])
        return {**BUILT_IN, "random": dataclasses.replace(default, select="random"), **self.policy}

    def policy_named(self, name: str) -> PolicySettings:
        """Look a policy up, also one that does not fit `scoring.estimator`: what the stored values fit, `write_mask` knows.

        Returns:
            its settings.

        Raises:
            ConfigurationError: there is none of that name.
        """
        policies = self._all_policies()
        if name not in policies:
            raise ConfigurationError(f"there is no policy {name!r}{_nearest(name, policies)}; known are {', '.join(sorted(policies))}")
        return policies[name]

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain data, for the `runs` table."""
        plain: dict[str, Any] = json.loads(TypeAdapter(Configuration).dump_json(self))
        return plain


def load(path: Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read a configuration file.

    Args:
        path: the YAML file.
        overrides: `section.key=value` each, the value in YAML; they win over the file.

    Returns:
        the checked configuration.

    Raises:
        ConfigurationError: the file is missing, not YAML, or does not fit.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no configuration file {path}; write one with `alphatoken init`, or give its path")
    if wrong := [o for o in overrides if "=" not in o]:
        raise ConfigurationError(f"an override is {wrong[0]!r}, expected SECTION.KEY=VALUE, such as training.epochs=2")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = [(key, yaml.safe_load(value)) for key, _, value in (o.partition("=") for o in overrides)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} or an override is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigurationError(
            f"{path} holds {type(raw).__name__}, expected sections data, model, scoring, policy, training, preference, warehouse"
        )
    for key, value in changes:
        _override(raw, key.split("."), value)
    return build(raw, path.resolve().parent, str(path))


def build(raw: dict[str, Any], base: Path, where: str) -> Configuration:
    """Check plain data and turn it into a configuration.

    Returns:
        the configuration, relative paths starting from `base`.

    Raises:
        ConfigurationError: an unknown key or a value that does not fit; every fault is listed.
    """
    data = raw.get("data")
    if isinstance(data, dict):
        raw = {**raw, "data": {k: _source(v) if k in ("train", "validation", "evaluation", "retention") else v for k, v in data.items()}}
    unknown = list(_unknown_keys(raw, Configuration, ""))
    if unknown:
        raise ConfigurationError(f"{where}: " + "; ".join(unknown))
    try:
        return TypeAdapter(Configuration).validate_python({**raw, "base": base})
    except ValidationError as error:
        faults = dict.fromkeys(_fault(e) for e in error.errors())  # in order, each once
        raise ConfigurationError(f"{where}: " + "; ".join(faults)) from error


def _fault(error: Any) -> str:
    """Say in one sentence which setting does not fit, and why."""
    keys = [str(key) for key in error["loc"]]
    branch = next((i for i, key in enumerate(keys) if key == "str" or key.startswith("tuple[")), None)
    path = ".".join(keys[:branch])
    if branch is not None:
        return f"{path}: expected text or a list of texts"
    if error["type"] in {"dataclass_type", "dict_type"}:
        return f"{path}: expected a section with lines of `key: value`, got {type(error['input']).__name__} {error['input']!r:.80}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if message.startswith(path) else f"{path}: {message}{_got(error)}"


def _got(error: Any) -> str:
    return f" (got {error['input']!r})" if isinstance(error["input"], str | int | float | bool) else ""


def _source(value: Any) -> Any:
    """A path alone stands for a source with that path."""
    return {"path": value} if isinstance(value, str | list) else value


def _override(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = raw.get(key)
        if isinstance(below, str | list):
            below = {"path": below}
        raw[key] = below if isinstance(below, dict) else {}
        raw = raw[key]
    raw[keys[-1]] = value


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def _unknown_keys(raw: Any, kind: Any, where: str) -> typing.Iterator[str]:
    """Yield a sentence for every key that the settings of a section do not have."""
    if isinstance(kind, types.UnionType):
        kind = next((k for k in typing.get_args(kind) if dataclasses.is_dataclass(k)), None)
    if typing.get_origin(kind) is Mapping and dataclasses.is_dataclass(typing.get_args(kind)[1]) and isinstance(raw, dict):
        for name, value in raw.items():
            yield from _unknown_keys(value, typing.get_args(kind)[1], f"{where}{name}.")
        return
    if not (isinstance(raw, dict) and dataclasses.is_dataclass(kind)):
        return
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name != "base"]
    for key, value in raw.items():
        if key not in known:
            yield f"unknown setting {where}{key}{_nearest(str(key), known)} (known here: {', '.join(known)})"
        else:
            yield from _unknown_keys(value, hints[key], f"{where}{key}.")
