"""Laws of flows/cli.py: everything is in the README, reading loads neither torch nor Prefect, faults end with one clear line."""

import csv
import io
import json
import subprocess
import sys

import polars as pl
import pytest
import typer

import warehouse as package
from flows import cli
from tests.flows.driver import ROOT
from warehouse import named_queries
from warehouse.connect import Warehouse, writer_lock

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_in_the_readme(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"alphatoken {name}" in text
    options = {o for parameter in COMMANDS[name].params for o in parameter.opts if o.startswith("--") and o != "--help"}
    assert not [option for option in options if option not in text]


def test_every_command_and_option_says_what_it_does():
    for name, command in COMMANDS.items():
        assert command.help, name
        assert [p.name for p in command.params if p.param_type_name == "option" and not p.help] == [], name


_SCRIPT = """
import sys
from flows import cli
for line in sys.argv[1:]:
    sys.argv = ["alphatoken", *line.split("|")]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, line
    found = {"torch", "prefect", "transformers", "datasets"} & set(sys.modules)
    assert not found, (line, found)
"""


def test_reading_commands_load_neither_torch_nor_prefect(valued_once, tmp_path):
    lines = ["--help", "value|--help", f"sql|SELECT 1|--warehouse|{valued_once.warehouse}", f"status|{valued_once.config}", "sql|--list"]
    example_id = valued_once.sql("SELECT example_id FROM examples LIMIT 1")[0][0]
    lines += [f"explain|{example_id}|--warehouse|{valued_once.warehouse}"]
    lines += [f"sql|--named|{name}|--warehouse|{valued_once.warehouse}" for name in ("kept_by_source", "corrupted_spans")]
    lines += [f"export|{valued_once.config}|--format|{form}|--out|{tmp_path / form}" for form in ("jsonl", "parquet", "trl-sft")]
    subprocess.run([sys.executable, "-c", _SCRIPT, *lines], cwd=ROOT, check=True, capture_output=True)


QUERY = "SELECT policy, count(*) AS n, avg(keep::INT) AS kept, list(DISTINCT branch) AS branches FROM token_masks GROUP BY policy ORDER BY policy"


def test_sql_answers_in_every_form(valued_once, call, tmp_path):
    where = ["--warehouse", valued_once.warehouse]
    expected = valued_once.sql(QUERY)
    policies = [row[0] for row in expected]

    status, out, err = call("sql", QUERY, *where)
    assert status == 0
    assert all(word in out for word in (*policies, "policy", str(expected[0][1])))
    assert "release" in err
    assert "seconds old" in err or "minutes old" in err

    rows = list(csv.DictReader(io.StringIO(call("sql", QUERY, *where, "--format", "csv")[1])))
    assert [(row["policy"], int(row["n"]), float(row["kept"]), row["branches"]) for row in rows] == [
        (policy, n, pytest.approx(kept), '["sft"]') for policy, n, kept, _ in expected
    ]

    found = json.loads(call("sql", QUERY, *where, "--format", "json")[1])
    assert [(row["policy"], row["n"], row["branches"]) for row in found] == [(policy, n, ["sft"]) for policy, n, _, _ in expected]

    for form in ("csv", "json", "parquet"):
        file = tmp_path / f"answer.{form}"
        assert call("sql", QUERY, *where, "--format", form, "--out", file)[:2] == (0, "")
        frame = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[form](file)
        assert frame["policy"].to_list() == policies
        assert frame["n"].to_list() == [row[1] for row in expected]


def test_named_queries_are_listed_and_answered_with_parameters(valued_once, call):
    where = ["--warehouse", valued_once.warehouse, "--format", "csv"]
    status, out, _ = call("sql", "--list")
    assert status == 0
    assert all(name in out for name in named_queries.names())
    assert "shortest span [3]" in out
    status, out, err = call("sql", "--named", "kept_by_source", "--param", "policy=full", *where)
    assert (status, err.startswith("release")) == (0, True)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["kept_share"] for row in rows} == {"1.0"}
    assert sum(int(row["num_kept"]) for row in rows) == valued_once.sql("SELECT count(*) FROM token_values")[0][0]
    assert call("sql", "SELECT $a::INT + $b::INT AS n", "--param", "a=3", "--param", "b=4", *where)[:2] == (0, "n\n7\n")
    assert call("sql", "SELECT $a AS s", "--param", "a=b=c", *where)[:2] == (0, "s\nb=c\n")


def test_every_named_query_runs_on_a_real_warehouse(valued_once):
    with package.open(valued_once.warehouse) as reader:
        for name in named_queries.names():
            query = named_queries.load(name)
            if name != "scoring_drift" and all(parameter.default is not None for parameter in query.parameters.values()):
                assert reader.named(name).columns, name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one of: a query, --named NAME, --list"),
        (["SELECT 1", "--list"], "give one of"),
        (["SELECT 1", "--named", "duplicates"], "give one of"),
        (["--named", "duplicate"], "there is no query 'duplicate'; there are: "),
        (["--named", "duplicates", "--param", "limit"], "--param takes KEY=VALUE, each key once; got: limit"),
        (["--named", "duplicates", "--param", "limit=1", "--param", "limit=2"], "each key once"),
        (["--named", "duplicates", "--param", "min=1"], "does not know min"),
        (["--named", "scoring_drift"], "no scorings fit 'previous'"),
        (["SELECT $a", "--param", "b=1"], "not provided for the following parameters: a"),
    ],
)
def test_bad_named_queries_and_parameters_end_with_a_clear_message(valued_once, call, arguments, says):
    status, out, err = call("sql", *arguments, "--warehouse", valued_once.warehouse)
    assert (status, out) == (1, "")
    assert says in err.splitlines()[0]


def test_explain_tells_the_story_of_an_example_and_of_a_token(valued_once, call, monkeypatch):
    query = "SELECT example_id, position, token, keep FROM token_values JOIN token_masks USING (example_id, branch, position) WHERE policy = 'default' AND NOT keep LIMIT 1"
    ((example_id, position, token, _),) = valued_once.sql(query)
    ((scoring_digest, sha),) = valued_once.sql("SELECT settings ->> '$.scoring.digest', git_sha FROM scorings JOIN runs USING (run_id)")
    status, out, err = call("explain", example_id, "--warehouse", valued_once.warehouse)
    assert (status, err.startswith("release")) == (0, True)
    assert all(word in out for word in (example_id, scoring_digest, str(sha or "unknown"), "default (sft)", "random (sft)"))
    monkeypatch.chdir(valued_once.folder)
    status, out, _ = call("explain", example_id[:20], position)
    assert status == 0
    assert "masked; mask" in out
    assert token in out
    status, out, err = call("explain", example_id[:20] + "zz")
    assert (status, out) == (1, "")
    assert f"nearest is {example_id}, with the same 20 first characters" in err
    status, _, err = call("explain", example_id, 0)
    assert (status, "is no response token with values; they are" in err) == (1, True)


def test_files_are_reached_only_with_allow_files(valued_once, call):
    query = [f"SELECT count(*) > 0 AS there FROM read_json('{valued_once.folder}/evaluation.jsonl')", "--format", "csv"]
    where = ["--warehouse", valued_once.warehouse]
    assert call("sql", *query, *where)[0] == 1
    assert call("sql", *query, *where, "--allow-files")[:2] == (0, "there\ntrue\n")


def test_forms_that_do_not_go_where_they_are_asked_to_say_so(valued_once, call, tmp_path):
    where = ["--warehouse", valued_once.warehouse]
    status, _, err = call("sql", "SELECT 1", *where, "--format", "parquet")
    assert (status, "name a file with --out" in err) == (1, True)
    status, _, err = call("sql", "SELECT 1", *where, "--out", tmp_path / "answer.txt")
    assert (status, "choose --format csv, json or parquet" in err) == (1, True)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT * FROM token_vlaues", "token_vlaues"),
        ("SELEC 1", "SELEC"),
        ("DELETE FROM record.runs", "read-only"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
    ],
)  # fmt: skip
def test_bad_query_ends_with_a_clear_message_and_status_1(valued_once, call, query, says):
    status, out, err = call("sql", query, "--warehouse", valued_once.warehouse)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert says in err.splitlines()[0]
    assert "Traceback" not in err


def test_without_a_warehouse_reading_says_how_to_make_one(project, call, monkeypatch):
    monkeypatch.chdir(project.folder)
    status, _, err = call("sql", "SELECT 1")
    assert (status, err.startswith(f"error: no warehouse with a release at {project.warehouse}; run `alphatoken value` first")) == (1, True)
    status, out, err = call("status")
    assert (status, err) == (0, "")
    assert "no warehouse yet at" in out
    monkeypatch.chdir(project.folder.parent)
    status, _, err = call("sql", "SELECT 1")
    assert (status, "there is no alphatoken.yaml in this folder; name the warehouse with --warehouse" in err) == (1, True)
    assert not project.warehouse.exists()


def test_sql_while_a_run_writes_answers_from_the_last_release_and_says_so(valued, call):
    with writer_lock(valued.warehouse, 1, "value_tokens"), Warehouse(valued.warehouse) as warehouse:
        warehouse.con.execute("BEGIN; DELETE FROM record.mask_values")
        status, out, err = call("sql", "SELECT count(*) AS n FROM masks", "--warehouse", valued.warehouse, "--format", "csv")
        assert (status, out) == (0, "n\n3\n")
        assert "value_tokens (process" in err
        assert "is writing a newer one" in err
    assert "is writing" not in call("sql", "SELECT 1", "--warehouse", valued.warehouse)[2]


def test_second_writer_waits_and_then_names_the_first(valued, call):
    with writer_lock(valued.warehouse, 1, "value_tokens"):
        status, _, err = call("mask", valued.config, "--set", "warehouse.lock_timeout_s=0")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: another run is writing")
    assert '"purpose": "value_tokens"' in err


def test_commands_say_what_they_did(valued, call):
    status, out, _ = call("mask", valued.config, "--set", "policy.harsh={keep: 0.2}", "--policy", "harsh")
    assert status == 0
    assert "mask harsh" in out
    assert "written" in out
    status, out, _ = call("value", valued.config)
    assert status == 0
    assert "0 tokens of 0 sequences scored" in out
    status, out, _ = call("train", valued.config, "--policy", "full")
    assert (status, "on mask 'full': trained" in out, "target loss" in out) == (0, True, True)
    status, out, _ = call("train", valued.config, "--policy", "full")
    assert (status, "on mask 'full': unchanged, not trained again" in out) == (0, True)
    status, out, _ = call("status", valued.config)
    assert status == 0
    for words in ("snapshots", "scorings", "masks", "pinned artefacts", "the next `alphatoken value` would do", "nothing: 0 tokens"):
        assert words in out


def test_export_says_what_it_wrote_and_how_to_read_it(valued_once, call, tmp_path):
    out = tmp_path / "out"
    status, told, err = call("export", valued_once.config, "--format", "trl-sft", "--out", out, "--policy", "random")
    assert (status, err) == (0, "")
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    supervised = valued_once.sql("SELECT count(*) FROM token_masks WHERE policy = 'random' AND keep AND position > 0")[0][0]
    assert counts["num_supervised_tokens"] == supervised
    assert f"{counts['num_rows']} rows" in told
    assert f"{supervised} of them supervised" in told
    status, _, err = call("export", valued_once.config, "--format", "trl-sft", "--out", out)
    assert (status, "give --overwrite to replace it" in err) == (1, True)
    assert call("export", valued_once.config, "--format", "jsonl", "--out", out, "--overwrite")[0] == 0
    assert json.loads((out / "manifest.json").read_text())["policy"] == "default"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "trl-dpo"], "trl-dpo takes examples with the branches chosen and rejected; those of this release have: sft"),
        (["--format", "jsonl", "--policy", "nix"], "there is no policy 'nix'"),
        (["--format", "jsonl", "--set", "policy.default={keep: 0.5}"], "made with other settings, values or data than the present ones"),
    ],
)
def test_an_export_that_cannot_be_says_why_and_writes_nothing(valued_once, call, tmp_path, arguments, says):
    status, out, err = call("export", valued_once.config, "--out", tmp_path / "out", *arguments)
    assert (status, out, says in err) == (1, "", True)
    assert list(tmp_path.iterdir()) == []


def test_init_writes_a_file_that_loads_and_is_never_overwritten(call, tmp_path):
    from tasks.settings import load

    path = tmp_path / "alphatoken.yaml"
    required = ["--model", "org/mo: del", "--train", "tr'ain.jsonl", "--validation", 'va"l.jsonl']
    assert call("init", path, *required)[0] == 0
    loaded = load(path)
    assert (loaded.model.reference, loaded.data.train.path, loaded.data.validation.path) == ("org/mo: del", "tr'ain.jsonl", 'va"l.jsonl')
    assert (loaded.data.evaluation, loaded.data.retention) == (None, None)
    before = path.read_text()
    status, _, err = call("init", path, *required)
    assert (status, "exists; give another path, or remove it first" in err, path.read_text() == before) == (1, True, True)
    assert call("init", tmp_path / "all.yaml", *required, "--evaluation", "e.jsonl", "--retention", "r.txt")[0] == 0
    full = load(tmp_path / "all.yaml")
    assert (full.data.evaluation.path, full.data.retention.path) == ("e.jsonl", "r.txt")


def test_init_writes_the_defaults_that_the_settings_have(call, tmp_path):
    from models.settings import ScoringSettings
    from models.training_settings import TrainingSettings
    from tasks.settings import load
    from warehouse.policies import BUILT_IN, PolicySettings

    path = tmp_path / "alphatoken.yaml"
    call("init", path, "--model", "m", "--train", "t", "--validation", "v")
    loaded = load(path)
    fitting = {name: policy for name, policy in BUILT_IN.items() if policy.estimator in (None, loaded.scoring.estimator)}
    assert (loaded.scoring, loaded.training) == (ScoringSettings(), TrainingSettings())
    assert loaded.policies() == {**fitting, "components": PolicySettings()}


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alphatoken", "status", "nowhere.yaml"])
    monkeypatch.setattr("tasks.settings.load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()
