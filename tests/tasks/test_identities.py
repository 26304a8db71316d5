"""Laws of tasks/identities.py: an identity changes with everything that its numbers depend on, and with nothing else (DESIGN 4)."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from models import chat
from models.settings import CODE_VERSIONS
from tasks import identities
from tasks.settings import build
from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.read import Reader
from warehouse.release import write_release


@pytest.fixture
def warehouse(tmp_path):
    with Warehouse(tmp_path / "wh") as opened:
        yield opened


@pytest.fixture
def base(tmp_path):
    """A folder with a model in it; the files are read as bytes only."""
    folder = tmp_path / "base"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "model" / "tokenizer_config.json").write_text("{}")
    (folder / "model" / "README.md").write_text("words")
    (folder / "template.jinja").write_text("{{ messages }}")
    return folder


def configured(base=Path(), **sections):
    raw = {"data": {"train": "t", "validation": "v"}, "model": {"reference": "model"}}
    return build({name: {**raw.get(name, {}), **sections.get(name, {})} for name in {*raw, *sections}}, base, "")


def all_ids(config, *, scoring="scoring", reference="reference", adapt="adapt", stab="stab"):
    return dataclasses.asdict(identities.value_identities(config, scoring, reference, adapt, stab))


def changed(one, other):
    return {name for name in one if one[name] != other[name]}


OUT = [
    {"data": {"train": "elsewhere.parquet"}},
    {"data": {"train": {"path": "t", "limit": 3}}},
    {"model": {"device": "cpu"}},
    {"scoring": {"batch_tokens": 64}},
    {"scoring": {"part_tokens": 10**6}},
    {"policy": {"mine": {"keep": 0.1}}},
    {"training": {"epochs": 9, "seed": 5, "learning_rate": 1.0}},
    {"warehouse": {"path": "elsewhere", "memory_limit": "1GB"}},
]
"""Settings that must not change any identity of a scoring."""


# ---- values


def test_each_group_of_values_depends_on_its_own_inputs_alone():
    plain = all_ids(configured())
    assert changed(plain, all_ids(configured(), adapt="new")) == {"adapt_values_id"}  # a new validation set redoes nothing else
    assert changed(plain, all_ids(configured(), stab="new")) == {"stab_values_id"}
    assert changed(plain, all_ids(configured(), reference="new")) == {"ref_signals_id"}
    assert changed(plain, all_ids(configured(), scoring="new")) == {"adapt_values_id", "stab_values_id", "signals_id"}


def test_the_dtype_changes_all_values():
    plain = all_ids(configured())
    assert changed(plain, all_ids(configured(scoring={"dtype": "bfloat16"}))) == set(plain)


def test_the_version_of_the_probe_changes_all_values(monkeypatch):
    plain = all_ids(configured())
    monkeypatch.setitem(CODE_VERSIONS, "probe", CODE_VERSIONS["probe"] + 1)
    assert changed(plain, all_ids(configured())) == set(plain)


def propagating(**propagation):
    return configured(scoring={"estimator": "value_propagation", "propagation": propagation})


def test_settings_of_value_propagation_change_its_values_and_artefacts_and_none_of_exact(monkeypatch):
    def keys(config):
        return {
            "fisher": identities.fisher_key(config, "r", "x"),
            "adapt": identities.adapt_key(config, "s", ["a"]),
            "token_fisher": identities.token_fisher_key(config, "r", "t"),
        }

    values = {"adapt_values_id", "stab_values_id"}
    for setting, made in {
        "last_blocks": {"token_fisher", "adapt"}, "window": set(), "fisher_sequences": {"token_fisher"}, "fisher_prompt_tokens": {"token_fisher"},
        "fisher_sampled_tokens": {"token_fisher"}, "seed": {"token_fisher"},
    }.items():  # fmt: skip
        config = propagating(**{setting: 5})
        assert changed(all_ids(propagating()), all_ids(config)) == (values if setting in {"last_blocks", "window"} else set()), setting
        assert changed(keys(propagating()), keys(config)) == made, setting
        exact = configured(scoring={"propagation": {setting: 5}})
        assert (all_ids(exact), keys(exact)["adapt"]) == (all_ids(configured()), keys(configured())["adapt"])
    assert identities.adapt_key(propagating(), "s", ["a"]) != identities.adapt_key(configured(), "s", ["a"])
    assert identities.propagation_stab_key("f", "s", "r") != identities.stab_key(configured(), "f", "s", "r")
    assert identities.token_fisher_key(configured(), "r", "other") != identities.token_fisher_key(configured(), "r", "t")
    before = all_ids(propagating())
    monkeypatch.setitem(CODE_VERSIONS, "propagation", CODE_VERSIONS["propagation"] + 1)
    assert changed(before, all_ids(propagating())) == values
    assert changed(all_ids(configured()), before) == values


def test_another_estimator_changes_the_values_of_directions_and_no_signal():
    plain = all_ids(configured())
    assert changed(plain, all_ids(propagating())) == {"adapt_values_id", "stab_values_id"}


def test_optional_signals_change_the_signals_of_the_scoring_model_alone_and_none_leaves_the_identity_of_before():
    plain = all_ids(configured())
    one, two = (all_ids(configured(scoring={"signals": signals})) for signals in (["margin"], ["margin", "el2n"]))
    assert changed(plain, one) == changed(plain, two) == changed(one, two) == {"signals_id"}
    assert all_ids(configured(scoring={"signals": ["el2n", "margin"]})) == two
    assert plain["signals_id"] == digest("signals", "scoring", "float32", CODE_VERSIONS["probe"])


def test_signals_of_the_scoring_model_are_never_taken_from_the_reference_of_which_the_loss_alone_is_kept():
    ids = all_ids(configured(), scoring="same", reference="same")
    assert ids["signals_id"] != ids["ref_signals_id"]
    assert len(set(all_ids(configured()).values())) == 4


@pytest.mark.parametrize("sections", OUT, ids=str)
def test_what_the_numbers_do_not_depend_on_changes_no_identity(sections):
    plain, other = configured(), configured(Path("/another/base"), **sections)
    assert all_ids(other) == all_ids(plain)
    assert identities.warmup_key(other, "r", "t") == identities.warmup_key(plain, "r", "t")
    assert identities.texts_key(other, "r", "t") == identities.texts_key(plain, "r", "t")
    assert identities.fisher_key(other, "r", "x") == identities.fisher_key(plain, "r", "x")
    assert identities.stab_key(other, "x", "s", "r") == identities.stab_key(plain, "x", "s", "r")
    assert identities.adapt_key(other, "s", ["a"]) == identities.adapt_key(plain, "s", ["a"])


# ---- artefacts


@pytest.mark.parametrize(("name", "value"), [("steps", 7), ("batch_size", 3), ("learning_rate", 1e-2), ("seed", 9)])
def test_every_setting_of_the_warmup_changes_its_key(name, value):
    assert identities.warmup_key(configured(), "r", "t") != identities.warmup_key(configured(scoring={"warmup": {name: value}}), "r", "t")


@pytest.mark.parametrize("arguments", [("r2", "t"), ("r", "t2")])
def test_reference_and_tokenization_change_the_warmup(arguments):
    assert identities.warmup_key(configured(), *arguments) != identities.warmup_key(configured(), "r", "t")


def texts_key(reference="r", tokenization="t", retention="x", **fisher):
    return identities.texts_key(configured(scoring={"fisher": fisher}), reference, tokenization, retention)


@pytest.mark.parametrize("source", ["self", "prompts"])
def test_every_setting_of_sampled_texts_and_the_model_that_writes_them_count(source):
    others = [texts_key(source=source, **{name: 3}) for name in ("num_sequences", "num_tokens", "seed")]
    assert len({texts_key(source=source), texts_key("r2", source=source), *others}) == 5
    assert texts_key(source=source, retention="y") == texts_key(source=source)


def test_each_source_of_texts_depends_on_its_own_inputs_alone():
    assert len({texts_key(source=source) for source in ("self", "prompts", "retention")}) == 3
    assert texts_key(tokenization="t2") == texts_key()
    assert texts_key(source="prompts", tokenization="t2") != texts_key(source="prompts")
    retention = texts_key(source="retention")
    assert texts_key(source="retention", retention="y") != retention
    assert texts_key("r2", "t2", source="retention", num_tokens=3, seed=3) == retention  # nothing is sampled


def test_the_fisher_depends_on_texts_reference_and_scope():
    excluding = configured(scoring={"scope_exclude": ["*.bias"]})
    keys = {
        identities.fisher_key(*a)
        for a in ((configured(), "r", "x"), (configured(), "r2", "x"), (configured(), "r", "y"), (excluding, "r", "x"))
    }
    assert len(keys) == 4


STABILITY = [{"form": "fisher_drift"}, {"scope_exclude": ["*norm*"]}, {"scaling": "tensor_norm"}]


@pytest.mark.parametrize("stability", STABILITY, ids=str)
def test_form_scope_and_scaling_of_stability_change_its_key_and_no_other(stability):
    plain, other = configured(), configured(scoring={"stability": stability})
    assert identities.stab_key(other, "x", "s", "r") != identities.stab_key(plain, "x", "s", "r")
    assert identities.adapt_key(other, "s", ["a"]) == identities.adapt_key(plain, "s", ["a"])
    assert identities.texts_key(other, "r", "t") == identities.texts_key(plain, "r", "t")
    assert identities.fisher_key(other, "r", "x") == identities.fisher_key(plain, "r", "x")


@pytest.mark.parametrize("adaptation", STABILITY[1:], ids=str)
def test_scope_and_scaling_of_adaptation_change_its_key_and_no_other(adaptation):
    plain, other = configured(), configured(scoring={"adaptation": adaptation})
    assert identities.adapt_key(other, "s", ["a"]) != identities.adapt_key(plain, "s", ["a"])
    assert identities.stab_key(other, "x", "s", "r") == identities.stab_key(plain, "x", "s", "r")
    assert identities.fisher_key(other, "r", "x") == identities.fisher_key(plain, "r", "x")


def test_the_number_of_alignment_texts_is_no_input_of_the_direction():
    other = configured(scoring={"stability": {"alignment_texts": 3}})
    assert identities.stab_key(other, "x", "s", "r") == identities.stab_key(configured(), "x", "s", "r")
    assert len({identities.alignment_key(*a) for a in (("d", "s", "x"), ("d2", "s", "x"), ("d", "s2", "x"), ("d", "s", "x2"))}) == 4


def test_the_validation_direction_depends_on_model_sequences_and_scope_not_on_their_order():
    plain = identities.adapt_key(configured(), "s", ["a", "b"])
    assert identities.adapt_key(configured(), "s", iter(["b", "a"])) == plain
    others = [
        identities.adapt_key(configured(), "s2", ["a", "b"]), identities.adapt_key(configured(), "s", ["a"]),
        identities.adapt_key(configured(scoring={"scope_exclude": ["x"]}), "s", ["a", "b"]),
    ]  # fmt: skip
    assert len({plain, *others}) == 4
    scopes = [configured(scoring={"scope_exclude": scope}) for scope in (["x", "y"], ["y", "x"])]
    assert identities.adapt_key(scopes[0], "s", ["a"]) == identities.adapt_key(scopes[1], "s", ["a"])


def test_the_stability_direction_depends_on_what_it_is_made_of_and_both_ends_of_the_drift():
    keys = {
        identities.stab_key(configured(), *arguments)
        for arguments in (("f", "s", "r"), ("f2", "s", "r"), ("f", "s2", "r"), ("f", "s", "r2"), ("f", "r", "s"))
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("version", "changes"),
    [("train", {"warmup"}), ("fisher", {"texts", "fisher"}), ("directions", {"adapt", "stab", "alignment"}), ("probe", set())],
)
def test_a_bumped_version_changes_what_its_module_makes(monkeypatch, version, changes):
    def keys():
        config = configured()
        return {
            "warmup": identities.warmup_key(config, "r", "t"), "fisher": identities.fisher_key(config, "r", "x"),
            "texts": identities.texts_key(config, "r", "t"), "alignment": identities.alignment_key("d", "s", "x"),
            "adapt": identities.adapt_key(config, "s", ["a"]), "stab": identities.stab_key(config, "f", "s", "r"),
        }  # fmt: skip

    before = keys()
    monkeypatch.setitem(CODE_VERSIONS, version, CODE_VERSIONS[version] + 1)
    assert changed(before, keys()) == changes


# ---- tokenization


def tokenization_of(warehouse, base, **tokenize):
    return identities.tokenization(warehouse, configured(base, data={"tokenize": tokenize}))


@pytest.mark.parametrize(
    "tokenize",
    [
        {"max_length": 100}, {"min_prompt_tokens": 3}, {"separator": "\n"}, {"chat_template": "chatml"}, {"chat_template": "template.jinja"},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_tokenizing_changes_the_tokenization_but_not_the_vocabulary(warehouse, base, tokenize):
    plain, other = tokenization_of(warehouse, base), tokenization_of(warehouse, base, **tokenize)
    assert other.tokenization_id != plain.tokenization_id
    assert other.tokenizer_digest == plain.tokenizer_digest


@pytest.mark.parametrize(
    ("name", "matters"), [("tokenizer.json", True), ("tokenizer_config.json", True), ("model.safetensors", False), ("README.md", False)]
)
def test_files_of_the_tokenizer_change_the_tokenization_and_others_do_not(warehouse, base, name, matters):
    plain = tokenization_of(warehouse, base)
    (base / "model" / name).write_text('{"changed": true}')
    other = tokenization_of(warehouse, base)
    assert (other.tokenization_id != plain.tokenization_id) == matters
    assert (other.tokenizer_digest != plain.tokenizer_digest) == matters


def test_a_new_tokenizer_file_counts(warehouse, base):
    plain = tokenization_of(warehouse, base)
    (base / "model" / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenization_of(warehouse, base).tokenization_id != plain.tokenization_id


def test_the_text_of_a_template_counts_and_its_place_does_not(warehouse, base):
    plain = tokenization_of(warehouse, base, chat_template="template.jinja")
    assert plain.settings.chat_template == str(base / "template.jinja")
    shutil.copy(base / "template.jinja", base / "renamed.jinja")
    assert tokenization_of(warehouse, base, chat_template="renamed.jinja").tokenization_id == plain.tokenization_id
    (base / "template.jinja").write_text("{{ other }}")
    assert tokenization_of(warehouse, base, chat_template="template.jinja").tokenization_id != plain.tokenization_id


def test_the_length_in_force_counts_however_it_came_about(warehouse, base):
    context = tokenization_of(warehouse, base)
    assert context.settings.max_length == 512
    assert tokenization_of(warehouse, base, max_length=512) == context
    assert tokenization_of(warehouse, base, max_length=10**6) == context  # no more than the model takes
    (base / "model" / "config.json").write_text("{}")
    assert tokenization_of(warehouse, base).settings.max_length == 2048
    assert tokenization_of(warehouse, base, max_length=10**6).settings.max_length == 10**6


def test_the_version_of_the_code_changes_the_tokenization(warehouse, base, monkeypatch):
    plain = tokenization_of(warehouse, base)
    monkeypatch.setattr(chat, "CODE_VERSION", chat.CODE_VERSION + 1)
    assert tokenization_of(warehouse, base).tokenization_id != plain.tokenization_id


def test_the_place_of_a_model_changes_nothing(warehouse, base, tmp_path):
    plain = tokenization_of(warehouse, base), identities.model_digest(warehouse, base / "model")
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert (tokenization_of(warehouse, moved), identities.model_digest(warehouse, moved / "model")) == plain


# ---- models and files


def test_configuration_and_weights_make_a_model(warehouse, base):
    folder = base / "model"
    plain = identities.model_digest(warehouse, folder)
    assert identities.unremembered_scoring_digest(folder, "") == plain
    (folder / "tokenizer.json").write_text("another")
    (folder / "generation_config.json").write_text("{}")
    assert identities.model_digest(warehouse, folder) == plain
    seen = {plain}
    for name, content in (("config.json", "{} "), ("model.safetensors", "heavier"), ("model-2.safetensors", "a second shard")):
        (folder / name).write_text(content)
        seen.add(identities.model_digest(warehouse, folder))
    assert len(seen) == 4


def test_a_file_is_read_once_and_again_when_it_changed(warehouse, tmp_path, monkeypatch):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    first = identities.file_digest(warehouse, path)
    assert first == identities._bytes_digest(path)

    def unreadable(self, *_, **__):
        raise AssertionError(f"{self} was read again")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", unreadable)
        assert identities.file_digest(warehouse, path) == first
    path.write_bytes(b"longer than before")
    second = identities.file_digest(warehouse, path)
    assert second != first
    times = path.stat()
    path.write_bytes(b"LONGER THAN BEFORE")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # the same size, another time
    third = identities.file_digest(warehouse, path)
    assert third not in {first, second}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", unreadable)
        assert identities.file_digest(warehouse, path) == third
    assert warehouse.con.execute("SELECT path, num_bytes, digest FROM record.file_digests").fetchall() == [(str(path), 18, third)]


def test_a_reader_uses_what_is_remembered_and_writes_nothing(warehouse, tmp_path, monkeypatch):
    known, new = tmp_path / "known", tmp_path / "new"
    known.write_bytes(b"1")
    new.write_bytes(b"2")
    remembered = identities.file_digest(warehouse, known)
    warehouse.con.close()
    write_release(tmp_path / "wh", 2)
    with Reader(tmp_path / "wh") as reader:
        assert identities.file_digest(reader, new) == identities._bytes_digest(new)
        assert reader.sql("SELECT path FROM record.file_digests").rows() == [(str(known),)]
        monkeypatch.setattr(Path, "open", None)
        assert identities.file_digest(reader, known) == remembered


def test_several_files_are_told_apart_by_name_and_kind(warehouse, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"1")
    digests = {
        identities.files_digest(warehouse, "model", [a]), identities.files_digest(warehouse, "model", [b]),
        identities.files_digest(warehouse, "tokenizer", [a]), identities.files_digest(warehouse, "model", [a, b]),
    }  # fmt: skip
    assert len(digests) == 4
