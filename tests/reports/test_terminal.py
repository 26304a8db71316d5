"""Laws of reports/terminal.py: an answer arrives in each form with nothing lost; NULL, lists and long tables are told."""

import csv
import datetime
import io
import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reports.terminal import _style, print_answer, print_response, print_rows, print_status
from warehouse.connect import Warehouse
from warehouse.read import Reader
from warehouse.release import write_release

FRAME = pl.DataFrame(
    {
        "id": ["a", None, "c,\n\"d\" ü"],
        "value": [0.5, None, -1234567.0],
        "number": [1, None, 3],
        "ids": [[1, 2], None, []],
        "values": [[0.5, None], None, [1.0]],
        "flags": [[True, False], None, [None]],
        "words": [["it's", 'a "b"', None], None, ["ü"]],
        "pair": [{"a": 1, "b": "x"}, None, {"a": None, "b": None}],
    },
    schema={
        "id": pl.String, "value": pl.Float32, "number": pl.UInt32, "ids": pl.List(pl.Int32), "values": pl.List(pl.Float32),
        "flags": pl.List(pl.Boolean), "words": pl.List(pl.String), "pair": pl.Struct({"a": pl.Int64, "b": pl.String}),
    },
)  # fmt: skip
NESTED = ("ids", "values", "flags", "words", "pair")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal without colours that breaks no line."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def printed(capsys, frame, form, out=None):
    print_answer(frame, form, out)
    return capsys.readouterr().out


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_file_holds_what_is_printed(capsys, tmp_path, form):
    assert printed(capsys, FRAME, form, tmp_path / "answer") == ""
    assert printed(capsys, FRAME, form).rstrip("\n") == (tmp_path / "answer").read_text(encoding="utf-8").rstrip("\n")


def test_json_is_an_array_of_objects_with_lists_and_null(capsys):
    assert json.loads(printed(capsys, FRAME, "json")) == FRAME.to_dicts()


def test_csv_has_lists_as_json_and_nothing_for_null(capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, FRAME, "csv"))))
    assert [row["id"] for row in rows] == ["a", "", 'c,\n"d" ü']
    assert [float(row["value"]) if row["value"] else None for row in rows] == FRAME["value"].to_list()
    assert [row["number"] for row in rows] == ["1", "", "3"]
    for name in NESTED:
        assert rows[1][name] == ""
        assert [json.loads(row[name]) for row in (rows[0], rows[2])] == [FRAME[name].to_list()[i] for i in (0, 2)], name


def test_dates_inside_lists_are_text_in_csv(capsys):
    frame = pl.DataFrame({"days": [[datetime.datetime(2026, 1, 2, 3, 4), None]]})
    assert json.loads(next(csv.DictReader(io.StringIO(printed(capsys, frame, "csv"))))["days"]) == ["2026-01-02 03:04:00", None]


def test_parquet_keeps_types_and_values(tmp_path):
    print_answer(FRAME, "parquet", tmp_path / "answer.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "answer.parquet"), FRAME)


def test_forms_that_cannot_go_where_they_were_asked_to_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="name a file with --out"):
        print_answer(FRAME, "parquet", None)
    with pytest.raises(ValueError, match="choose --format csv, json or parquet"):
        print_answer(FRAME, "table", tmp_path / "answer")
    assert list(tmp_path.iterdir()) == []


def test_a_table_shows_names_values_and_null(capsys):
    text = printed(capsys, FRAME.with_columns(pl.lit("[bold]x[/bold]").alias("list[markup]")), "table")
    lines = text.splitlines()
    assert [name.strip() for name in lines[1].strip("┃ ").split("┃")] == [*FRAME.columns, "list[markup]"]
    assert [cell.strip() for cell in lines[3].strip("│ ").split("│")][:5] == ["a", "0.5", "1", "[1, 2]", "[0.5, None]"]
    assert text.count("NULL") == len(FRAME.columns)
    assert "-1.23457e+06" in text
    assert text.count("[bold]x[/bold]") == 3  # content is not markup


def test_a_long_table_is_cut_and_says_so_and_the_other_forms_are_not(capsys):
    frame = pl.DataFrame({"number": range(1000, 1041)})
    print_answer(frame, "table", None)
    captured = capsys.readouterr()
    assert "1039" in captured.out
    assert "1040" not in captured.out
    assert "40 of 41 rows" in captured.err
    print_answer(frame.head(40), "table", None)
    assert capsys.readouterr().err == ""
    assert len(printed(capsys, frame, "csv").splitlines()) == 42


def test_a_long_cell_is_cut_in_a_table_alone(capsys):
    frame = pl.DataFrame({"text": ["x" * 300]})
    assert "x" * 199 + "…" in printed(capsys, frame, "table")
    assert "x" * 300 in printed(capsys, frame, "csv")


@pytest.mark.parametrize("frame", [FRAME.head(0), pl.DataFrame()])
@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_an_answer_without_rows_can_be_printed(capsys, frame, form):
    text = printed(capsys, frame, form)
    if form == "json":
        assert json.loads(text) == []
    elif form == "csv":
        assert text.strip() == ",".join(frame.columns)


def test_lines_are_printed_as_they_are(capsys):
    print_rows([("a [b]", "text with [brackets]"), ("c", "d")], title="head")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["head"],
        ["a", "[b]", "text", "with", "[brackets]"],
        ["c", "d"],
    ]


def test_a_response_is_printed_whole_also_without_scores(capsys):
    tokens = pl.DataFrame(
        {"token": ["▁one", None, " two", "[/x]"], "score": [1.0, None, 3.0, 2.0], "keep": [True, True, False, True]},
        schema={"token": pl.String, "score": pl.Float32, "keep": pl.Boolean},
    )
    print_response(tokens, "title")
    assert capsys.readouterr().out == "title\n▁one two[/x]\n"
    print_response(tokens.with_columns(score=pl.lit(None, pl.Float32)), "title")
    assert capsys.readouterr().out == "title\n▁one two[/x]\n"
    print_response(tokens.head(0), "title")
    assert capsys.readouterr().out == "title\n\n"


def test_styles_tell_masked_from_kept_and_high_from_low():
    assert _style(False, 1.0) == _style(False, 0.0) == _style(False, None)
    assert "strike" in _style(False, 1.0)
    styles = [_style(True, rank) for rank in (1.0, 0.6, 0.2)]
    assert len(set(styles)) == 3
    assert not any("strike" in style for style in styles)
    assert [_style(True, rank) for rank in (0.75, 0.5)] == styles[1:]  # a rank at the border belongs to those below
    assert _style(True, None) == styles[2] == ""


@pytest.mark.parametrize("warning", [None, "stability is zero"])
def test_a_status_can_be_told_of_an_empty_warehouse_and_of_one_with_runs(capsys, tmp_path, warning):
    with Warehouse(tmp_path) as warehouse:
        pass
    write_release(tmp_path, 2)
    with Reader(tmp_path) as reader:
        print_status(reader, "head [x]", warning, [], [("ingest", "nothing")])
    empty = capsys.readouterr().out
    for title in ("snapshots", "scorings", "masks", "runs", "bad rows"):
        assert f"{title}: none" in empty
    assert empty.startswith("head [x]\n")
    assert ("WARNING stability is zero" in empty) == (warning is not None)
    with Warehouse(tmp_path) as warehouse, warehouse.transaction():
        warehouse.con.execute("INSERT INTO record.runs (run_id, flow, state) VALUES ('0123456789', 'value_tokens', 'failed')").fetchall()
    write_release(tmp_path, 2)
    with Reader(tmp_path) as reader:
        print_status(reader, "head", warning, [], [])
    text = capsys.readouterr().out
    assert "runs: none" not in text
    assert "value_tokens" in text
    assert "01234567" in text
