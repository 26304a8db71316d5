"""Laws of tasks/changes.py: the form of a deployment has every setting with meaning and bounds, and changes what the file says."""

import dataclasses
import json
import typing

import pytest
from pydantic import ValidationError

from tasks.changes import BOUNDS, Changes, overrides
from tasks.settings import Configuration, ConfigurationError, load

FILE = """
data: {train: a.jsonl, validation: b.jsonl}
model: {reference: m}
scoring: {low_rank: {rank: 4}}
policy: {mine: {keep: 0.5, weights: {loss: 1.0}}}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "alphatoken.yaml").write_text(FILE)
    return tmp_path / "alphatoken.yaml"


def test_no_change_is_no_override():
    assert overrides(None) == overrides(Changes()) == []


def test_changes_win_over_the_file_and_leave_the_rest(config):
    changed = {"training": {"learning_rate": 1e-3}, "policy": {"mine": {"weights": {"entropy": 2.0}}}, "scoring": {"signals": ["margin"]}}
    loaded = load(config, overrides(Changes(**changed)))
    assert loaded.training.learning_rate == pytest.approx(1e-3)
    assert loaded.policy["mine"].weights == {"entropy": 2.0}
    assert loaded.policy["mine"].keep == pytest.approx(0.5)
    assert loaded.scoring.signals == ("margin",)
    assert loaded.scoring.low_rank.rank == 4


def test_every_setting_of_the_form_has_a_meaning_and_unknown_ones_are_refused():
    schema = Changes.model_json_schema()
    models = {"Changes": schema, **schema["$defs"]}
    assert [
        (name, key) for name, one in models.items() for key, field in one.get("properties", {}).items() if not field.get("description")
    ] == []
    assert sum(len(one.get("properties", {})) for one in models.values()) > 100
    with pytest.raises(ValidationError, match="Extra inputs"):
        Changes(training={"learning_rat": 1.0})


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_the_forms_bounds_are_those_of_the_settings(key, config):
    """A value at a bound is taken by both; one beyond it is refused by both."""
    for kind, bound in BOUNDS[key].items():
        step = 1e-3 if isinstance(bound, float) or kind in ("gt", "le") else 1
        outside = {"ge": bound - 1, "gt": bound, "le": bound + step}[kind]
        inside = {"ge": bound, "gt": bound + step, "le": bound}[kind]
        assert field_of(key) is not None
        with pytest.raises(ValidationError):
            change(key, outside)
        with pytest.raises(ConfigurationError):
            load(config, [f"{key}={outside}"])
        assert overrides(change(key, inside)) == [f"{key}={json.dumps(value_of(load(config, overrides(change(key, inside))), key))}"]


def change(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return Changes(**value)


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def field_of(key):
    kind = Configuration
    for name in key.split("."):
        hint = typing.get_type_hints(kind)[name]
        kind = next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), hint)
    return kind
