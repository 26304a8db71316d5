"""Laws of models/files.py: a model is found where it is, and what is missing is told with what to do."""

import json

import pytest

from models.files import context_length, resolve_folder, tokenizer_files, weight_files


def model_at(folder, config=None, weights="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    (folder / weights).write_bytes(b"")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with org/name at two revisions."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--name"
    commits = {"main": "a" * 40, "v2": "b" * 40}
    for revision, commit in commits.items():
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        model_at(repository / "snapshots" / commit)
    return {revision: repository / "snapshots" / commit for revision, commit in commits.items()}


def test_a_folder_is_found_from_the_base_as_it_stands_and_from_home(tmp_path, monkeypatch):
    folder = model_at(tmp_path / "models" / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_folder("models/mine", tmp_path) == folder
    assert resolve_folder("./mine", tmp_path / "models") == folder
    assert resolve_folder(str(folder), tmp_path / "elsewhere") == folder
    assert resolve_folder("~/models/mine", tmp_path / "elsewhere") == folder
    (tmp_path / "link").symlink_to(folder)
    assert resolve_folder("link", tmp_path) == folder


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing", "missing", "a/b/c"])
def test_a_missing_folder_is_told_and_the_hub_is_not_asked(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a folder saved with save_pretrained, or a hub name"):
        resolve_folder(name, tmp_path)


def test_a_folder_without_configuration_is_told(tmp_path):
    model_at(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/m holds no config.json"):
        resolve_folder("m", tmp_path)


def test_weights_in_pickles_are_refused_with_what_to_do(tmp_path):
    model_at(tmp_path / "m", weights="pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no \*.safetensors; weights in pickle files are not loaded: save them with"):
        resolve_folder("m", tmp_path)


def test_a_hub_name_is_found_in_the_cache_by_revision(cache, tmp_path):
    assert resolve_folder("org/name", tmp_path, download=False) == cache["main"]
    assert resolve_folder("org/name", tmp_path, "v2", download=False) == cache["v2"]


def test_a_local_folder_wins_over_a_hub_name(cache, tmp_path):
    folder = model_at(tmp_path / "org" / "name")
    assert resolve_folder("org/name", tmp_path, download=False) == folder


@pytest.mark.parametrize(("name", "revision"), [("org/other", None), ("org/name", "v3"), ("not a name/at all", None)])
def test_a_hub_name_that_is_not_to_be_had_is_told_with_what_to_do(cache, tmp_path, name, revision):
    with pytest.raises(
        FileNotFoundError, match=rf"model '{name}' is no folder at .* check the name and the network, or give a local folder"
    ):
        resolve_folder(name, tmp_path, revision, download=False)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024, "n_ctx": 9}, 1024),
        ({"n_ctx": 256}, 256),
        ({"max_seq_len": 128}, 128),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 9}, 64),
        ({"max_position_embeddings": None, "n_ctx": 32}, 32),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
        ({"hidden_size": 32}, None),
    ],
    ids=str,
)
def test_the_context_is_what_the_configuration_states(tmp_path, config, length):
    assert context_length(model_at(tmp_path, config)) == length


def test_weight_files_are_the_configuration_and_the_shards_in_order(tmp_path):
    model_at(tmp_path, weights="model-00002-of-00002.safetensors")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "generation_config.json", "x.bin"):
        (tmp_path / name).write_text("")
    assert [path.name for path in weight_files(tmp_path)] == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip


def test_tokenizer_files_are_those_that_decide_ids_and_template(tmp_path):
    model_at(tmp_path)
    ours = [
        "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    for name in [*ours, "README.md", "generation_config.json", "vocab_head.safetensors"]:
        (tmp_path / name).write_text("")
    (tmp_path / "tokens").mkdir()
    assert [path.name for path in tokenizer_files(tmp_path)] == ours
