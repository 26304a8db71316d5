"""Laws of tasks/settings.py: every fault is told in one sentence with its place; what is accepted arrives as it was given."""

import json
import re
from pathlib import Path

import pytest
import yaml

from flows.template import configuration_text
from models.settings import ScoringSettings
from models.training_settings import LoraSettings, TrainingSettings
from tasks.settings import ConfigurationError, build, load
from warehouse.ingest import SourceSettings
from warehouse.policies import BUILT_IN, PolicySettings
from warehouse.settings import WarehouseSettings

SMALLEST = {"data": {"train": "train.jsonl", "validation": "val.jsonl"}, "model": {"reference": "org/model"}}


def merged(below, above):
    """Mappings laid over one another."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def faults(changes, base=Path()):
    """The sentences that a configuration is refused with."""
    with pytest.raises(ConfigurationError) as caught:
        build(merged(SMALLEST, changes), base, "my.yaml")
    where, _, text = str(caught.value).partition(": ")
    assert where == "my.yaml"
    return text.split("; ")


def write(folder, content):
    path = folder / "alphatoken.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# ---- unknown keys


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"trainin": {}}, "trainin", "training"),
        ({"data": {"trian": "x"}}, "data.trian", "train"),
        ({"training": {"learning_rat": 1}}, "training.learning_rat", "learning_rate"),
        ({"scoring": {"warmup": {"step": 1}}}, "scoring.warmup.step", "steps"),
        ({"scoring": {"fisher": {"num_token": 1}}}, "scoring.fisher.num_token", "num_tokens"),
        ({"training": {"lora": {"rnk": 1}}}, "training.lora.rnk", "rank"),
        ({"policy": {"mine": {"normalisation": "rank"}}}, "policy.mine.normalisation", "normalization"),
        ({"data": {"train": {"path": "x", "colums": {}}}}, "data.train.colums", "columns"),
        ({"data": {"evaluation": {"path": "x", "limt": 1}}}, "data.evaluation.limt", "limit"),
        ({"data": {"tokenize": {"max_len": 1}}}, "data.tokenize.max_len", "max_length"),
        ({"warehouse": {"keep_release": 1}}, "warehouse.keep_release", "keep_releases"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one(changes, key, nearest):
    (text,) = faults(changes)
    assert text.startswith(f"unknown setting {key}, did you mean '{nearest}'? (known here: ")


def test_an_unknown_key_that_is_near_nothing_lists_the_known_ones():
    (text,) = faults({"warehouse": {"zzzz": 1}})
    assert text == "unknown setting warehouse.zzzz (known here: path, memory_limit, lock_timeout_s, keep_releases)"


def test_the_folder_of_the_configuration_cannot_be_set():
    assert faults({"base": "/"})[0].startswith("unknown setting base ")


def test_names_of_policies_and_of_column_roles_are_free():
    policy = {"any name at all": {"keep": 0.5}}
    config = build(
        merged(SMALLEST, {"policy": policy, "data": {"train": {"path": "x", "columns": {"prompt": "q", "response": "a"}}}}), Path(), ""
    )
    assert config.policy == {"any name at all": PolicySettings(keep=0.5)}
    assert config.data.train.columns == {"prompt": "q", "response": "a"}


# ---- values


@pytest.mark.parametrize(
    ("changes", "place", "says"),
    [
        ({"training": {"epochs": "many"}}, "training.epochs", "'many'"),
        ({"training": {"batch_size": 1.5}}, "training.batch_size", "1.5"),
        ({"training": {"batch_size": 0}}, "training.batch_size", "is 0; it must be at least 1"),
        ({"training": {"bucket_window": -1}}, "training.bucket_window", "is -1; it must be at least 0"),
        ({"training": {"learning_rate": -1}}, "training", "learning_rate -1.0; all must be positive"),
        ({"training": {"start": "middle"}}, "training.start", "'reference' or 'scoring' (got 'middle')"),
        ({"training": {"lora": {"dropout": 1}}}, "training.lora", "dropout 1.0 (in [0, 1))"),
        ({"training": {"lora": {"target_modules": 3}}}, "training.lora.target_modules", "text or a list of texts"),
        ({"training": None}, "training", "expected a section with lines of `key: value`, got NoneType None"),
        ({"training": [1]}, "training", "got list [1]"),
        ({"model": "gpt2"}, "model", "expected a section with lines of `key: value`, got str 'gpt2'"),
        ({"model": {"reference": 3}}, "model.reference", "got 3"),
        ({"model": {"device": "tpu"}}, "model.device", "'auto', 'cpu' or 'cuda' (got 'tpu')"),
        ({"scoring": {"dtype": "int8"}}, "scoring.dtype", "got 'int8'"),
        ({"scoring": {"warmup": {"steps": -1}}}, "scoring.warmup", "steps -1 (at least 0)"),
        ({"scoring": {"fisher": {"num_sequences": 0}}}, "scoring.fisher", "num_sequences 0"),
        ({"scoring": {"batch_tokens": 9, "part_tokens": 8}}, "scoring", "part_tokens 8 at least batch_tokens"),
        ({"policy": {"mine": {"keep": 70}}}, "policy.mine", "keep: got 70.0, expected a share between 0 and 1"),
        ({"policy": {"mine": {"scope": "document"}}}, "policy.mine.scope", "got 'document'"),
        ({"policy": {"mine": {"weights": {"adapt": 1}}}}, "policy.mine", "did you mean 'adapt_direct'?"),
        ({"policy": {"mine": {"weights": {"loss": "much"}}}}, "policy.mine.weights.loss", "got 'much'"),
        ({"policy": {"mine": None}}, "policy.mine", "expected a section"),
        ({"data": {"train": 5}}, "data.train", "expected a section with lines of `key: value`, got int 5"),
        ({"data": {"train": {"path": 5}}}, "data.train.path", "text or a list of texts"),
        ({"data": {"train": ["a", 5]}}, "data.train.path", "text or a list of texts"),
        ({"data": {"train": ""}}, "data.train", "name at least one"),
        ({"data": {"train": {"path": "x", "limit": 0}}}, "data.train", "limit: got 0"),
        ({"data": {"evaluation": {"path": "x", "offset": -1}}}, "data.evaluation", "offset: got -1"),
        ({"data": {"tokenize": {"max_length": 1}}}, "data.tokenize", "max_length is 1, expected at least 2 tokens"),
        ({"warehouse": {"keep_releases": 0}}, "warehouse", "keep_releases 0 (at least 1)"),
        ({"warehouse": {"lock_timeout_s": -1}}, "warehouse", "lock_timeout_s -1.0 (at least 0)"),
    ],
)
def test_a_value_that_does_not_fit_is_told_once_with_its_place(changes, place, says):
    with pytest.raises(ConfigurationError) as caught:
        build(merged(SMALLEST, changes), Path(), "my.yaml")
    text = str(caught.value).removeprefix("my.yaml: ")
    assert re.match(rf"{re.escape(place)}[: ]", text)
    assert text.count(place + ":") <= 1  # the place is not said twice
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize("missing", [("data",), ("model",), ("data", "train"), ("data", "validation"), ("model", "reference")])
def test_what_is_required_is_named_when_it_is_missing(missing):
    raw = json.loads(json.dumps(SMALLEST))
    section = raw if len(missing) == 1 else raw[missing[0]]
    del section[missing[-1]]
    with pytest.raises(ConfigurationError, match=rf"my.yaml: {'.'.join(missing)}: Field required"):
        build(raw, Path(), "my.yaml")


def test_all_faults_are_listed_at_once():
    wrong = {"model": {"reference": 3}, "training": {"epochs": "x", "seed": "y"}, "policy": {"mine": {"keep": 9}}}
    assert [re.split(r"[: ]", text)[0] for text in faults(wrong)] == ["model.reference", "policy.mine", "training.epochs", "training.seed"]
    unknown = faults({"trainin": {}, "warehouse": {"pth": 1}, "data": {"tokenize": {"x": 1}}})
    assert {text.split()[2].rstrip(",") for text in unknown} == {"trainin", "warehouse.pth", "data.tokenize.x"}


def test_numbers_as_yaml_misreads_them_are_numbers(tmp_path):
    text = yaml.safe_dump(SMALLEST) + "training: {learning_rate: 5e-4, epochs: 2}\n"
    assert yaml.safe_load(text)["training"]["learning_rate"] == "5e-4"  # YAML 1.1 wants a point in it
    training = load(write(tmp_path, text)).training
    assert (training.learning_rate, training.epochs) == (5e-4, 2.0)


# ---- sources


@pytest.mark.parametrize("role", ["train", "validation", "evaluation"])
def test_a_path_alone_is_a_source(role):
    assert getattr(build(merged(SMALLEST, {"data": {role: "a/*.jsonl"}}), Path(), "").data, role) == SourceSettings(path="a/*.jsonl")
    assert getattr(build(merged(SMALLEST, {"data": {role: ["a", "b"]}}), Path(), "").data, role) == SourceSettings(path=("a", "b"))


def test_the_smallest_configuration_has_the_defaults_of_every_section():
    config = build(SMALLEST, Path("/base"), "")
    assert (config.scoring, config.training, config.warehouse) == (ScoringSettings(), TrainingSettings(), WarehouseSettings())
    assert config.data.evaluation is None
    assert config.data.retention is None
    assert config.policies() == {name: policy for name, policy in BUILT_IN.items() if name != "paper"}


# ---- overrides


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("training.epochs=3", lambda c: c.training.epochs, 3.0),
        ("training.learning_rate=1e-3", lambda c: c.training.learning_rate, 1e-3),
        ("scoring.warmup.steps=7", lambda c: c.scoring.warmup.steps, 7),
        ("policy.mine.keep=0.5", lambda c: c.policy["mine"], PolicySettings(keep=0.5)),
        ("training.lora.rank=4", lambda c: c.training.lora, LoraSettings(rank=4)),
        ("data.train.limit=5", lambda c: c.data.train, SourceSettings(path="train.jsonl", limit=5)),
        ("data.train=[a, b]", lambda c: c.data.train, SourceSettings(path=("a", "b"))),
        ("data.train=other.jsonl", lambda c: c.data.train, SourceSettings(path="other.jsonl")),
        ("data.train={path: c, limit: 2}", lambda c: c.data.train, SourceSettings(path="c", limit=2)),
        ("data.evaluation.path=e.jsonl", lambda c: c.data.evaluation, SourceSettings(path="e.jsonl")),
        ("data.train.columns.prompt=a=b", lambda c: c.data.train.columns, {"prompt": "a=b"}),
        ("scoring.scope_exclude=['*.bias']", lambda c: c.scoring.scope_exclude, ("*.bias",)),
        ("training.max_steps=null", lambda c: c.training.max_steps, None),
        ("model.revision='123'", lambda c: c.model.revision, "123"),
    ],
)
def test_an_override_wins_over_the_file_and_leaves_the_rest(tmp_path, override, read, expected):
    path = write(tmp_path, merged(SMALLEST, {"training": {"epochs": 1, "seed": 9, "max_steps": 4}}))
    plain, changed = load(path), load(path, [override])
    assert read(changed) == expected
    assert changed.training.seed == 9
    assert changed.data.validation == plain.data.validation
    assert load(path) == plain


def test_an_override_into_a_list_of_paths_keeps_the_paths(tmp_path):
    path = write(tmp_path, merged(SMALLEST, {"data": {"train": ["a", "b"]}}))
    assert load(path, ["data.train.limit=5"]).data.train == SourceSettings(path=("a", "b"), limit=5)


def test_the_last_override_wins(tmp_path):
    assert load(write(tmp_path, SMALLEST), ["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.epochs", "'training.epochs', expected SECTION.KEY=VALUE"),
        ("training.epoch=1", "unknown setting training.epoch, did you mean 'epochs'"),
        ("trainig.epochs=1", "unknown setting trainig, did you mean 'training'"),
        ("training.epochs=[1", "not YAML"),
        ("training.epochs=", "training.epochs: Input should be a valid number"),
        ("training=3", "training: expected a section"),
        ("model.reference.path=3", "model.reference: Input should be a valid string"),
    ],
)
def test_an_override_that_does_not_fit_is_told(tmp_path, override, says):
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        load(write(tmp_path, SMALLEST), [override])


# ---- files


def test_a_missing_file_is_told_with_what_to_do(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match=rf"no configuration file {path}; .*alphatoken init"):
            load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1\n", "is not YAML"), ("\tdata:\n", "is not YAML"), ("", "holds NoneType"), ("- data\n", "holds list"), ("data", "holds str"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_mapping_in_yaml_is_told_with_its_name(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(ConfigurationError, match=rf"{path}.*{says}"):
        load(path)


def test_a_file_that_is_not_text_is_told_with_its_name(tmp_path):
    path = tmp_path / "alphatoken.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=str(path)):
        load(path)


def test_a_file_cannot_make_python_objects(tmp_path):
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load(write(tmp_path, "data: !!python/object/apply:os.getcwd []\n"))


# ---- what comes out


def test_paths_start_from_the_folder_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", merged(SMALLEST, {"warehouse": {"path": "../wh"}}))
    monkeypatch.chdir(tmp_path)
    config = load(Path("below/alphatoken.yaml"))
    assert config.base == tmp_path / "below"
    assert config.warehouse_folder == tmp_path / "wh"
    absolute = load(Path("below/alphatoken.yaml"), ["warehouse.path=/elsewhere/wh"])
    assert absolute.warehouse_folder == Path("/elsewhere/wh")
    monkeypatch.setenv("HOME", "/home/me")
    assert load(Path("below/alphatoken.yaml"), ["warehouse.path=~/wh"]).warehouse_folder == Path("/home/me/wh")


def test_as_dict_is_plain_data_with_every_setting_and_makes_the_same_configuration_again(tmp_path):
    changes = {
        "data": {"train": ["a", "b"], "tokenize": {"max_length": 9}}, "policy": {"mine": {"weights": {"loss": -1}}},
        "training": {"lora": {"rank": 2}, "report_to": ["wandb"]}, "scoring": {"scope_exclude": ["*"]},
    }  # fmt: skip
    config = load(write(tmp_path, merged(SMALLEST, changes)))
    plain = config.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["training"]["learning_rate"] == TrainingSettings().learning_rate  # the defaults, too
    base = plain.pop("base")
    assert build(plain, Path(base), "") == config


def test_a_run_applies_the_policies_that_fit_the_estimator_and_names_find_all():
    mine = {"policy": {"mine": {"estimator": "exact"}}}
    exact = build(merged(SMALLEST, mine), Path(), "")
    other = build(merged(SMALLEST, {**mine, "scoring": {"estimator": "value_propagation"}}), Path(), "")
    assert set(exact.policies()) == {"default", "random", "full", "mine"}
    assert set(other.policies()) == {"default", "random", "full", "paper"}
    for config in (exact, other):
        assert config.policy_named("paper") == BUILT_IN["paper"]
        assert config.policy_named("mine").estimator == "exact"


def test_named_policies_win_over_the_built_in_ones():
    config = build(merged(SMALLEST, {"policy": {"default": {"keep": 0.5}, "mine": {}}}), Path(), "")
    assert set(config.policies()) == {*BUILT_IN, "mine"} - {"paper"}
    assert config.policy_named("default") == PolicySettings(keep=0.5)
    assert config.policy_named("random") == PolicySettings(select="random", keep=0.5)  # a control at the rate of the default
    assert build(merged(SMALLEST, {"policy": {"random": {"keep": 0.9}}}), Path(), "").policy_named("random").keep == pytest.approx(0.9)
    with pytest.raises(ConfigurationError, match=r"no policy 'mien', did you mean 'mine'.* known are default, full, mine, paper, random"):
        config.policy_named("mien")


@pytest.mark.parametrize("evaluation", [None, "eval.jsonl"])
@pytest.mark.parametrize("retention", [None, "text/*.txt"])
@pytest.mark.parametrize("train", ["train.jsonl", 'it\'s "here" # not a comment: {x}\\n/ü 用.jsonl', "openai/gsm8k", "- a", "null", "5"])
def test_the_written_template_loads_into_what_was_given_and_the_defaults(tmp_path, train, evaluation, retention):
    text = configuration_text("org/model", train, "val.jsonl", evaluation, retention)
    config = load(write(tmp_path, text))
    assert (config.model.reference, config.data.train, config.data.validation) == (
        "org/model", SourceSettings(path=train), SourceSettings(path="val.jsonl"),
    )  # fmt: skip
    assert config.data.evaluation == (None if evaluation is None else SourceSettings(path=evaluation))
    assert config.data.retention == (None if retention is None else SourceSettings(path=retention))
    # What the template writes out are the defaults, so that a line may be removed without effect.
    plain = build({"data": {"train": train, "validation": "val.jsonl"}, "model": {"reference": "org/model"}}, tmp_path, "")
    assert (config.scoring, config.training, config.warehouse) == (plain.scoring, plain.training, plain.warehouse)
    assert config.data.tokenize == plain.data.tokenize
    assert config.policies() == {**plain.policies(), "components": PolicySettings()}
