"""The documents tell the truth: generated pages equal the code, and the README names every view and command."""

import re
from pathlib import Path

from docs.generate import configuration, schema
from warehouse.migrate import columns

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration(), "run: python -m docs.generate"
    assert (ROOT / "docs" / "schema.md").read_text() == schema(), "run: python -m docs.generate"


def test_every_setting_has_a_meaning():
    rows = [line for line in configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [line for line in rows if line.rstrip("|").rstrip().endswith("|")] == []


def test_readme_names_every_view():
    readme = (ROOT / "README.md").read_text()
    assert [view for view in columns() if f"`{view}`" not in readme] == []


def test_the_readmes_example_of_a_stream_runs_and_delivers_every_kept_token(valued_once, tmp_path, monkeypatch):
    example = re.search(r"## Stream and export\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "alphatoken-warehouse").symlink_to(valued_once.warehouse)
    monkeypatch.chdir(tmp_path)
    learned = []
    exec(example[1], {"train_step": lambda ids, mask, labels: learned.append(int((labels[:, 1:] != -100).sum()))})
    assert sum(learned) == valued_once.sql("SELECT count(*) FROM token_masks WHERE policy = 'default' AND keep AND position > 0")[0][0]


def test_the_example_of_scoring_a_batch_runs_as_it_is_printed(capsys):
    import re

    from tests.reference.families import make, random_direction

    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), flags=re.S)
        if "models.probe" in block
    ]
    model = make("llama")
    exec(example, {"model": model, "direction": random_direction(model)})
    assert capsys.readouterr().out.count("tensor") == 4


def test_the_readmes_example_of_sql_from_python_runs(valued_once, tmp_path, monkeypatch):
    example = re.search(r"### From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "alphatoken-warehouse").symlink_to(valued_once.warehouse)
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(example[1], told)
    assert told["losses"].columns == ["token", "loss"]
    assert len(told["losses"]) > 0
    assert told["kept"]["source"].to_list() == [row[0] for row in valued_once.sql("SELECT DISTINCT source FROM examples ORDER BY source")]
