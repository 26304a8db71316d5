"""Laws of bad input: each kind ends with a message that says what came and what to do, and leaves nothing half-written."""

import json
import re
import shutil

import duckdb
import pytest
import yaml

from tasks.parts import CorruptPartError
from tests.flows.world import make_model, write_rows
from warehouse.migrate import SchemaVersionError


def check_consistent(project):
    """Every row has its receipt and every receipt its rows."""
    if not (project.warehouse / "alphatoken.duckdb").exists():
        return
    checks = {
        "snapshots without a receipt": "SELECT 1 FROM record.snapshots ANTI JOIN (SELECT identity AS snapshot_id FROM record.receipts) USING (snapshot_id)",
        "examples that the snapshot does not count": """
            SELECT 1 FROM record.snapshots LEFT JOIN (SELECT snapshot_id, count(*) AS n FROM record.snapshot_examples GROUP BY ALL) USING (snapshot_id)
            WHERE n IS DISTINCT FROM num_examples""",
        "masks without a receipt": "SELECT 1 FROM record.masks ANTI JOIN (SELECT identity AS mask_id FROM record.receipts WHERE stage = 'mask') USING (mask_id)",
        "masks that lack sequences": """
            SELECT 1 FROM record.receipts LEFT JOIN (
                SELECT mask_id AS identity, count(DISTINCT sequence_id) AS n
                FROM record.mask_rows JOIN record.masks USING (mask_id) JOIN record.snapshot_examples USING (snapshot_id)
                JOIN record.example_sequences USING (example_id, sequence_id) GROUP BY ALL
            ) USING (identity)
            WHERE stage = 'mask' AND n IS DISTINCT FROM num_rows""",
        "values without a receipt": """
            SELECT 1 FROM (SELECT (SELECT count(*) FROM record.direction_values) AS found, (SELECT coalesce(sum(num_rows), 0) FROM record.receipts WHERE stage = 'score') AS said)
            WHERE found > 2 * said""",
        "pointers to nothing": """
            SELECT 1 FROM record.pointers WHERE value NOT IN (SELECT snapshot_id FROM record.snapshots UNION ALL SELECT tokenization_id FROM record.tokenizations
            UNION ALL SELECT scoring_id FROM record.scorings UNION ALL SELECT mask_id FROM record.masks)""",
    }  # fmt: skip
    for fault, query in checks.items():
        assert project.live(query) == [], fault


def add_lines(project, name, *lines):
    with (project.folder / name).open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def edit_model(project, change):
    """Copy the model into the project, change the copy, and use it."""
    shutil.copytree(project.model, project.folder / "broken")
    change(project.folder / "broken")
    return ["model.reference=./broken"]


def missing_data(project):
    (project.folder / "train.jsonl").unlink()


def not_json(project):
    add_lines(project, "train.jsonl", "{", "no", "never")


def unknown_layout(project):
    write_rows(project.folder / "train.jsonl", [{"question_text": "one ?", "answer_text": "one"}])


def empty_file(project):
    (project.folder / "train.jsonl").write_text("")


def mixture(project):
    write_rows(
        project.folder / "train.jsonl", [{"prompt": "one ?", "response": "one"}, {"prompt": "one ?", "chosen": "one", "rejected": "two"}]
    )


def blank_validation(project):
    write_rows(project.folder / "validation.jsonl", [{"prompt": "one ?", "response": " "}])


def unusable_validation(project):
    write_rows(project.folder / "validation.jsonl", [{"prompt": "one ?", "response": ""}] * 3)
    return ["data.validation={path: validation.jsonl, max_rejected_share: 1.0}"]


def missing_model(_):
    return ["model.reference=./nowhere"]


def pickled_model(project):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    return edit_model(project, change)


def corrupt_weights(project):
    def change(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])

    return edit_model(project, change)


def no_config(project):
    return edit_model(project, lambda folder: (folder / "config.json").unlink())


def no_tokenizer(project):
    return edit_model(project, lambda folder: [p.unlink() for p in folder.glob("token*")])


def conversations(project):
    write_rows(
        project.folder / "train.jsonl", [{"messages": [{"role": "user", "content": "one ?"}, {"role": "assistant", "content": "one"}]}]
    )


def missing_template(project):
    return ["data.tokenize.chat_template=nowhere.jinja"]


def cuda(_):
    return ["model.device=cuda"]


def zero_length(_):
    return ["data.tokenize.max_length=1"]


CASES = [
    (missing_data, r"train\.jsonl: no such file or folder; looked for .*Relative paths start from the folder of the configuration file"),
    (not_json, r"5 of 45 rows cannot be used; max_rejected_share = 0\.05 allows 2\. Reasons: 4 not JSON, 1 missing column"),
    (unknown_layout, r"train\.jsonl: no known layout fits any row; columns found: question_text, answer_text\. Known layouts: .*Name the columns"),
    (empty_file, r"train\.jsonl: no example among 0 rows.*check that the path is the right one, is not empty"),
    (mixture, r"1 pairs of responses \(the first train\.jsonl:2\).*expected one kind.*to take the chosen responses alone, set columns"),
    (blank_validation, r"none of the 1 examples became a sequence; see the reasons in the view rejected_rows|1 of 1 rows cannot be used"),
    (unusable_validation, r"validation\.jsonl: no example among 3 rows, 3 of them rejected"),
    (missing_model, r"model folder .*nowhere does not exist; give a folder saved with save_pretrained, or a hub name"),
    (pickled_model, r"holds no \*\.safetensors; weights in pickle files are not loaded: save them with safe_serialization=True"),
    (no_config, r"holds no config\.json; expected a folder saved with save_pretrained"),
    (corrupt_weights, r"broken/model\.safetensors is not a whole safetensors file .*; save or fetch it again"),
    (no_tokenizer, r"broken holds no tokenizer; save the model's own there with tokenizer\.save_pretrained"),
    (conversations, r"has messages, but the tokenizer has no chat template: set .* to \"chatml\" or the path of a Jinja file"),
    (missing_template, r"nowhere\.jinja"),
    (cuda, r"model\.device is 'cuda', but torch sees no CUDA device; set model\.device to 'auto' or 'cpu'"),
    (zero_length, r"max_length is 1, expected at least 2 tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "says"), CASES, ids=[case[0].__name__ for case in CASES])
def test_first_run_on_bad_input_says_so_and_writes_no_release(project, spoil, says):
    overrides = spoil(project) or []
    with pytest.raises((ValueError, OSError), match=f"(?s){says}"):
        project.value(*overrides)
    check_consistent(project)
    assert not (project.warehouse / "releases").exists()


@pytest.mark.parametrize("spoil", [not_json, mixture, unusable_validation, corrupt_weights, conversations], ids=lambda f: f.__name__)
def test_bad_input_after_a_good_run_leaves_values_and_release_as_they_were(valued, spoil):
    release = (valued.warehouse / "releases" / "CURRENT").read_text()
    values = valued.live("SELECT count(*) FROM token_values"), valued.live("SELECT * FROM record.pointers ORDER BY ALL")
    config = valued.config.read_text()
    files = {p.name: p.read_bytes() for p in valued.folder.iterdir() if p.is_file()}
    overrides = spoil(valued) or []
    with pytest.raises((ValueError, OSError)):
        valued.value(*overrides)
    check_consistent(valued)
    assert (valued.warehouse / "releases" / "CURRENT").read_text() == release
    assert (valued.live("SELECT count(*) FROM token_values"), valued.live("SELECT * FROM record.pointers ORDER BY ALL")) == values
    for name, content in files.items():
        (valued.folder / name).write_bytes(content)
    assert valued.config.read_text() == config
    assert valued.value().counts["score"]["num_tokens"] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"there is no configuration file .*alphatoken\.yaml; write one with `alphatoken init`"),
        ("data: [", r"alphatoken\.yaml or an override is not YAML"),
        ("- 1", r"holds list, expected sections data, model"),
        ("data: {train: t, validation: v}\nmodel: {refrence: m}", r"unknown setting model\.refrence, did you mean 'reference'\?"),
        ("data: {train: t}\nmodel: {reference: m}", r"data\.validation: Field required"),
        ("data: {train: t, validation: v}\nmodel: {reference: m}\nscoring: {batch_tokens: many}", r"scoring\.batch_tokens: .*got 'many'"),
    ],
)  # fmt: skip
def test_configuration_that_cannot_be_used_is_refused_before_anything_is_written(project, text, says):
    project.config.unlink() if text is None else project.config.write_text(text)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        project.value()
    assert not project.warehouse.exists()


def test_every_fault_of_a_configuration_is_listed(project):
    raw = project.settings()
    raw["scoring"] |= {"batch_token": 1, "dtpye": "float32"}
    project.config.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=r"scoring\.batch_token, did you mean 'batch_tokens'\?.*scoring\.dtpye, did you mean 'dtype'\?"):
        project.value()


def test_damaged_part_is_not_committed_and_the_message_says_what_to_do(project, driver):
    driver.run_killed("value", folder=str(project.folder), point="part written", number=2, shard=8192)
    first, second = sorted((project.warehouse / "work").glob("*/part-*"))
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptPartError, match=re.escape(str(first)) + ".*was damaged on disk. Remove it and run again"):
        project.value()
    assert project.live("SELECT count(*) FROM record.signal_values") == [(0,)]
    check_consistent(project)
    first.unlink()
    assert project.value().counts["score"]["num_sequences"] == 40
    assert not second.exists()
    check_consistent(project)


def test_warehouse_of_another_schema_is_refused_by_all(valued):
    current = valued.warehouse / "releases" / (valued.warehouse / "releases" / "CURRENT").read_text()
    for file in (valued.warehouse / "alphatoken.duckdb", current / "alphatoken.duckdb"):
        with duckdb.connect(str(file)) as con:
            con.execute("UPDATE record.meta SET schema_version = 99")
    before = valued.bytes_of_warehouse()
    for use in (valued.value, valued.mask, valued.train):
        with pytest.raises(SchemaVersionError, match=r"schema version 99, this AlphaToken .* version \d+; use the version that wrote it"):
            use()
    assert valued.bytes_of_warehouse() == before


def test_training_before_valuing_is_refused(project):
    with pytest.raises(OSError, match=r"no warehouse with a release at .*run `alphatoken value` first"):
        project.train()
    assert not project.warehouse.exists()


def test_model_of_another_shape_is_no_scoring_model(project, tmp_path):
    from flows import demo_world

    make_model(tmp_path / "other", demo_world.vocabulary()[:50], ["once there was a fox ."])
    with pytest.raises(
        ValueError,
        match=r"model\.scoring .*other is no checkpoint of model\.reference .*: vocab_size 53 \(reference: \d+\); give a model fine-tuned",
    ):
        project.value(f"model.scoring={tmp_path / 'other'}")
    check_consistent(project)
    assert not (project.warehouse / "releases").exists()


def test_faults_of_input_are_not_tried_again_and_faults_of_the_machine_are():
    from prefect.states import Failed

    from tasks.stages import from_outside
    from warehouse.release import NoReleaseError

    lasting = [
        ValueError("x"),
        FileNotFoundError("x"),
        PermissionError("x"),
        NoReleaseError("x"),
        MemoryError("x"),
        RuntimeError("x"),
        json.JSONDecodeError("x", "", 0),
    ]
    passing = [ConnectionError("x"), TimeoutError("x"), OSError(28, "no space left")]
    assert [from_outside(None, None, Failed(data=fault)) for fault in lasting] == [False] * len(lasting)
    assert [from_outside(None, None, Failed(data=fault)) for fault in passing] == [True] * len(passing)
