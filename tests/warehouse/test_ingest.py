"""Laws of warehouse/ingest.py: identity is content alone, every row read is an example, a duplicate or a rejected row."""

import csv
import datetime
import decimal
import gzip
import json
import os
import random
from pathlib import Path

import polars as pl
import pydantic
import pytest
from polars.testing import assert_frame_equal

from warehouse.digests import digest
from warehouse.ingest import SourceSettings, TooManyRejectedRows, read_examples, read_texts

REAL = Path(os.environ.get("ALPHATOKEN_REAL", Path(__file__).parents[2] / ".." / "shared" / "real")) / "data"
ROWS = [{"prompt": f"question {i}, ü", "response": f"answer\n{i}", "source": f"s{i % 3}"} for i in range(20)]
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
GOOD = '{"prompt": "a", "response": "b"}'
PLACE = ["file", "line"]


def texts_of(path, base):
    return read_texts(SourceSettings(path=path if isinstance(path, str) else tuple(path)), base)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def read(base, path, **settings):
    return read_examples(SourceSettings(path=path, **settings), base)


def prompts(ingested):
    """Prompts in the order the rows were read."""
    return [json.loads(content)["prompt"] for content in ingested.examples.sort("file", "line")["content"]]


def rejections(ingested):
    return ingested.rejected.select("line", "reason").rows()


def write_rows(base, kind, rows=ROWS):
    path = base / f"data{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind in {".jsonl", ".ndjson"}:
        path.write_text(lines)
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    elif kind == ".data.json":
        path.write_text(json.dumps({"version": 1, "data": rows}))
    elif kind == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif kind == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path.name


@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".jsonl.gz", ".json", ".data.json", ".parquet", ".csv"])
def test_every_format_gives_the_same_examples(tmp_path, kind):
    expected = read(tmp_path, write_jsonl(tmp_path / "expected.jsonl", ROWS))
    got = read(tmp_path, write_rows(tmp_path, kind))
    assert_frame_equal(got.examples.drop(PLACE), expected.examples.drop(PLACE))
    assert got.examples["file"].unique().to_list() == [f"data{kind}"]
    assert (got.num_rows, got.rejected.height) == (20, 0)
    assert prompts(got) == [row["prompt"] for row in ROWS]


def test_frames_have_the_promised_form(tmp_path):
    got = read(tmp_path, write_jsonl(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "id": 3}]))
    text, count = pl.String, pl.UInt32
    assert got.examples.schema == {
        "example_id": text, "content": text, "source": text, "extra": text, "multiplicity": count, "file": text, "line": count,
    }  # fmt: skip
    assert got.rejected.schema == {"file": text, "line": count, "reason": text, "raw": text}
    ids = got.examples["example_id"]
    assert ids.is_unique().all()
    assert ids.is_sorted()
    assert ids.to_list() == [digest("example", content) for content in got.examples["content"]]
    assert got.examples["multiplicity"].sum() == got.num_rows == 21


@pytest.mark.parametrize("seed", range(5))
def test_examples_depend_on_neither_order_nor_files(tmp_path, seed):
    rows = [*ROWS, *({**ROWS[i], "source": source, "n": n} for i in (1, 2) for n, source in enumerate(["z", None, "a", "a", ""]))]
    expected = read(tmp_path, write_jsonl(tmp_path / "whole.jsonl", rows))
    random.Random(seed).shuffle(rows)
    cut = random.Random(seed).randrange(1, len(rows))
    write_jsonl(tmp_path / "parts" / "b.jsonl", rows[:cut])
    write_rows(tmp_path / "parts", ".parquet", rows[cut:])
    got = read(tmp_path, "parts")
    assert_frame_equal(got.examples.drop(PLACE), expected.examples.drop(PLACE))
    assert got.num_rows == len(rows)


def test_duplicates_are_counted_with_the_smallest_source_and_the_first_place(tmp_path):
    pair = {"prompt": "a", "response": "b"}
    rows = [
        {**pair, "z": 1},
        {**pair, "source": "b"},
        {**pair, "source": "a", "n": 2},
        {**pair, "source": "a", "n": 1},
        {**pair, "source": "a"},
    ]
    got = read(tmp_path, write_jsonl(tmp_path / "a.jsonl", rows))
    assert got.examples.drop("example_id").rows() == [('{"prompt":"a","response":"b"}', "a", '{"n":1}', 5, "a.jsonl", 1)]
    assert read(tmp_path, ("a.jsonl", "a.jsonl")).examples["multiplicity"].to_list() == [10]


def test_places_are_lines_of_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"\ufeff{GOOD}\n\n  \n{GOOD.replace('a', 'c')}\r\n")
    (tmp_path / "b.csv").write_text('prompt,response\n"two\nlines",x\n\nlast,"with ""quotes"", commas"\n')
    got = read(tmp_path, ("a.jsonl", "b.csv"))
    assert got.examples.select(PLACE).sort(PLACE).rows() == [("a.jsonl", 1), ("a.jsonl", 4), ("b.csv", 2), ("b.csv", 5)]
    assert got.num_rows == 4
    assert '{"prompt":"last","response":"with \\"quotes\\", commas"}' in got.examples["content"]


BAD_LINES = [
    ("not JSON", b'{"prompt": "a", "respon', '{"prompt": "a", "respon'),
    ("not JSON", b"[" * 100_000, "[" * 500),
    ("not an object", b'["a", "b"]', '["a", "b"]'),
    ("not an object", b"null", "null"),
    ("not UTF-8", b'{"prompt": "\xff", "response": "b"}', '{"prompt": "\\xff", "response": "b"}'),
    ("not UTF-8", b'{"prompt": "\\ud800", "response": "b"}', 'half of a surrogate pair | {"prompt": "\\ud800", "response": "b"}'),
    ("wrong type", b'{"prompt": "a", "response": 4}', 'response is a number | {"prompt": "a", "response": 4}'),
    ("wrong type", b'{"prompt": "a", "response": ["b"]}', 'response is a list | {"prompt": "a", "response": ["b"]}'),
    ("missing column", b'{"prompt": "a"}', '{"prompt": "a"}'),
    ("missing column", b'{"prompt": "a", "response": null}', '{"prompt": "a", "response": null}'),
    ("empty response", b'{"prompt": "a", "response": " "}', '{"prompt": "a", "response": " "}'),
    ("empty conversation", b'{"messages": []}', '{"messages": []}'),
    ("no assistant turn", b'{"messages": [{"role": "user", "content": "a"}]}', '{"messages": [{"role": "user", "content": "a"}]}'),
    ("unknown role", b'{"messages": [{"role": "x"}]}', 'messages[0] has role \'x\' | {"messages": [{"role": "x"}]}'),
]


@pytest.mark.parametrize(("reason", "line", "raw"), BAD_LINES)
def test_bad_lines_are_kept_aside_with_place_and_reason(tmp_path, reason, line, raw):
    (tmp_path / "a.jsonl").write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    got = read(tmp_path, "a.jsonl", max_rejected_share=0.5)
    assert got.rejected.rows() == [("a.jsonl", 3, reason, raw)]
    assert (got.num_rows, got.examples["multiplicity"].to_list()) == (3, [2])


def test_bad_rows_of_csv(tmp_path):
    lines = [b"prompt,response", b"a,b", b"a,b,c", b"a", b'a,"b" c', b"a,\xff", b"a,", b'"x\ny",']
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    got = read(tmp_path, "a.csv", max_rejected_share=1)
    reasons = [(3, "ragged row"), (4, "ragged row"), (5, "ragged row"), (6, "not UTF-8"), (7, "empty response"), (8, "empty response")]
    assert rejections(got) == reasons
    assert got.rejected["raw"][0] == "3 fields, header has 2 | a,b,c"
    assert got.num_rows == 7


def test_bad_rows_of_json_and_parquet(tmp_path):
    (tmp_path / "a.json").write_text(f'[{GOOD}, 3, {{"prompt": "a", "response": 4}}]')
    assert rejections(read(tmp_path, "a.json", max_rejected_share=1)) == [(2, "not an object"), (3, "wrong type")]
    pl.DataFrame({"prompt": ["a", "b", "c"], "response": ["x", None, ""]}).write_parquet(tmp_path / "a.parquet")
    got = read(tmp_path, "a.parquet", max_rejected_share=1)
    assert rejections(got) == [(2, "missing column"), (3, "empty response")]
    assert got.rejected["raw"].to_list() == ['{"prompt":"b","response":null}', '{"prompt":"c","response":""}']


def test_long_fields_of_csv_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"prompt,response\na,{'b' * 300_000}\n")
    assert len(read(tmp_path, "a.csv").examples["content"][0]) > 300_000


def test_too_many_rejected_rows_stop_and_say_which(tmp_path):
    bad = ['{"prompt": "a"}', "{", "[]", "{"]
    (tmp_path / "a.jsonl").write_text("\n".join([GOOD] * 6 + bad))
    with pytest.raises(TooManyRejectedRows) as caught:
        read(tmp_path, "a.jsonl", max_rejected_share=0.39)
    message = str(caught.value)
    assert "4 of 10 rows cannot be used; max_rejected_share = 0.39 allows 3. Reasons: 2 not JSON, " in message
    assert 'a.jsonl:7 (missing column): {"prompt": "a"}' in message
    assert "a.jsonl:10" not in message
    assert caught.value.ingested.rejected["line"].to_list() == [7, 8, 9, 10]
    assert caught.value.ingested.examples.height == 1
    assert read(tmp_path, "a.jsonl", max_rejected_share=0.4).rejected.height == 4


def test_limit_and_offset_count_rows_as_read(tmp_path):
    (tmp_path / "b.jsonl").write_text("\n".join(['{"prompt": "b0", "response": "x"}', "", "{", '{"prompt": "b2", "response": "x"}']))
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"a{i}", "response": "x"} for i in range(2)])
    got = read(tmp_path, ("b.jsonl", "a.jsonl"), offset=1, limit=3, max_rejected_share=0.5)
    assert prompts(got) == ["a0", "b2"]
    assert (got.num_rows, rejections(got)) == (3, [(3, "not JSON")])
    assert prompts(read(tmp_path, "*.jsonl", limit=3)) == ["a0", "a1", "b0"]
    with pytest.raises(ValueError, match=r"no example among 0 rows.*offset 9"):
        read(tmp_path, "a.jsonl", offset=9)


def test_globs_and_folders_read_known_files_by_name(tmp_path):
    for name in ("b", "a", "deep/c"):
        write_jsonl(tmp_path / "d" / f"{name}.jsonl", [{"prompt": name, "response": "x"}])
    write_jsonl(tmp_path / "d" / ".hidden.jsonl", [{"prompt": "hidden", "response": "x"}])
    (tmp_path / "d" / "README.md").write_text("not data")
    assert prompts(read(tmp_path, "d/*.jsonl")) == ["a", "b"]
    assert prompts(read(tmp_path, "d/**/*.jsonl")) == prompts(read(tmp_path, "d")) == ["a", "b", "deep/c"]
    assert read(tmp_path / "d" / "deep", "../a.jsonl").examples["file"].to_list() == ["../a.jsonl"]
    assert read(tmp_path / "elsewhere", str(tmp_path / "d" / "[a]*")).examples["file"].to_list() == [f"{tmp_path}/d/a.jsonl"]


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("gone.jsonl", FileNotFoundError, r"gone\.jsonl: no such file.*expected a file, folder"),
        ("no/such/folder", FileNotFoundError, "no such file or folder; looked for /"),
        ("gone*.jsonl", ValueError, "glob matches no file; looked in"),
        ("empty", ValueError, "a folder without data files; expected .jsonl"),
        ("a.jsonl.zst", ValueError, "zstd -d a.jsonl.zst"),
        ("a.xlsx", ValueError, "unknown kind of file; expected one of .jsonl"),
        ("a.parquet.gz", ValueError, "unknown kind of file"),
        ("broken.parquet", ValueError, r"broken\.parquet: cannot be read"),
        ("broken.jsonl.gz", ValueError, r"cannot be read \(BadGzipFile"),
        ("cut.jsonl.gz", ValueError, r"cannot be read \(EOFError"),
        ("lines.json", ValueError, r"lines\.json: cannot be read .*line 2 column 1.*name it \.jsonl"),
        ("object.json", ValueError, "expected an array of objects"),
        ("latin.json", ValueError, "position 2"),
        ("quote.csv", ValueError, r"quote\.csv:3: a quote opened in this row is never closed"),
        ("header.csv", ValueError, "column names repeat"),
        ("blank.jsonl", ValueError, "no example among 0 rows"),
        ("blank.json", ValueError, "no example among 0 rows"),
        ("blank.csv", ValueError, "no example among 0 rows"),
        ("other.csv", ValueError, r"other\.csv: no known layout fits any row; columns found: who, said\. Known layouts: prompt"),
        ("other.jsonl", ValueError, r"columns found: who, said, to\..*columns: \{\"prompt\""),
        (
            "mixed.jsonl",
            ValueError,
            r"1 pairs of responses \(the first mixed\.jsonl:2\) among 1 single responses \(the first mixed\.jsonl:3\).*one kind",
        ),
    ],
)
def test_unreadable_inputs_say_what_to_do(tmp_path, path, error, match):
    whole = gzip.compress((GOOD + "\n").encode() * 1000)
    files = {
        "a.jsonl.zst": b"", "a.xlsx": b"", "a.parquet.gz": b"", "broken.parquet": b"PAR1", "broken.jsonl.gz": b"{}", "cut.jsonl.gz": whole[:-20],
        "lines.json": b"{}\n{}", "object.json": b'{"rows": []}', "latin.json": b'["\xe4"]', "quote.csv": b'prompt,response\na,b\na,"b\nc,d\n',
        "header.csv": b"a,a\n", "blank.jsonl": b"\n\n", "blank.json": b"", "blank.csv": b"", "other.csv": b"who,said\na,b\n",
        "other.jsonl": b'{"who": 1, "said": 2}\n{"to": 3}\n',
        "mixed.jsonl": b'\n{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "response": "b"}',
    }  # fmt: skip
    (tmp_path / "empty").mkdir()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=match):
        read(tmp_path, path)


def test_columns_mapping(tmp_path):
    name = write_jsonl(tmp_path / "a.jsonl", [{"q": "a", "a": "b", "kind": "k", "prompt": "other"}])
    got = read(tmp_path, name, columns={"question": "q", "answer": "a", "source": "kind"})
    assert got.examples.select("content", "source", "extra").rows() == [('{"prompt":"a","response":"b"}', "k", '{"prompt":"other"}')]


def test_parquet_and_jsonl_agree_on_ragged_tool_calls(tmp_path):
    def chat(**arguments):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"messages": [CHAT["messages"][0], {"role": "assistant", "tool_calls": [call]}], "tools": [{"name": "f", **arguments}]}

    rows = [chat(x=1), chat(y="2"), CHAT]
    pl.DataFrame(rows, strict=False).write_parquet(tmp_path / "a.parquet")
    expected = read(tmp_path, write_jsonl(tmp_path / "a.jsonl", rows))
    assert_frame_equal(read(tmp_path, "a.parquet").examples.drop(PLACE), expected.examples.drop(PLACE))


def test_typed_columns_of_parquet_end_in_extra(tmp_path):
    row = {
        "prompt": "a",
        "response": "b",
        "day": datetime.date(2024, 1, 2),
        "blob": b"\x01",
        "price": decimal.Decimal("1.50"),
        "nan": float("nan"),
    }
    pl.DataFrame([{**row, "at": datetime.datetime(2024, 1, 2, 3), "took": datetime.timedelta(seconds=2), "none": None}]).write_parquet(
        tmp_path / "a.parquet"
    )
    extra = json.loads(read(tmp_path, "a.parquet").examples["extra"][0])
    assert extra.pop("price") in {"1.5", "1.50"}
    assert extra == {"day": "2024-01-02", "blob": "AQ==", "nan": "NaN", "at": "2024-01-02T03:00:00", "took": 2.0}


def test_hugging_face_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    expected = read(tmp_path, write_jsonl(tmp_path / "a.jsonl", ROWS))
    plain = datasets.Dataset.from_list(ROWS[::-1]).select(range(20))
    plain.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": plain, "test": plain.select([3])}).save_to_disk(str(tmp_path / "splits"))
    assert_frame_equal(read(tmp_path, "plain").examples.drop(PLACE), expected.examples.drop(PLACE))
    assert_frame_equal(read(tmp_path, "splits").examples.drop(PLACE), expected.examples.drop(PLACE))
    assert read(tmp_path, "splits", split="test").examples.select(PLACE).rows() == [("splits/test", 1)]
    with pytest.raises(ValueError, match=r"no split 'dev'; it has train, test"):
        read(tmp_path, "splits", split="dev")
    mixed = [{"messages": [CHAT["messages"][0], {"role": "assistant", "tool_calls": [{"a": value}]}]} for value in (1, "1")]
    datasets.Dataset.from_list(mixed, on_mixed_types="use_json").save_to_disk(str(tmp_path / "mixed"))
    assert_frame_equal(
        read(tmp_path, "mixed").examples.drop(PLACE), read(tmp_path, write_jsonl(tmp_path / "mixed.jsonl", mixed)).examples.drop(PLACE)
    )
    (tmp_path / "plain" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="save_to_disk"):
        read(tmp_path, "plain")


@pytest.mark.parametrize("path", ["no-such-owner/no-such-set", "no-such-set"])
def test_hub_names_that_cannot_be_reached_say_so(tmp_path, monkeypatch, path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=rf"{path}: not found as file or folder \({tmp_path}/{path}\), and as hub data set .* answered .*Correct `path`"
    ):
        read(tmp_path, path, name="main")


def test_settings_come_from_configuration_files():
    adapter = pydantic.TypeAdapter(SourceSettings)
    settings = adapter.validate_python({"path": ["a.jsonl", "b.jsonl"], "limit": 3, "columns": {"question": "q"}})
    assert settings == SourceSettings(path=("a.jsonl", "b.jsonl"), limit=3, columns={"question": "q"})
    with pytest.raises(pydantic.ValidationError, match="limitt"):
        adapter.validate_python({"path": "a", "limitt": 3})


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"path": ""}, "path: got ''"),
        ({"path": ()}, "path: got"),
        ({"path": ("a", "")}, "path: got"),
        ({"split": ""}, "split, name"),
        ({"name": ""}, "split, name"),
        ({"limit": 0}, "limit: got 0, expected at least 1"),
        ({"offset": -1}, "offset: got -1"),
        ({"max_rejected_share": 1.5}, "max_rejected_share: got 1.5"),
        ({"max_rejected_share": float("nan")}, "max_rejected_share: got nan"),
        ({"columns": {"answr": "x"}}, "unknown role answr"),
    ],
)
def test_settings_out_of_bounds(wrong, match):
    with pytest.raises(ValueError, match=match):
        SourceSettings(**{"path": "a.jsonl", **wrong})


def test_texts_of_txt_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(
        b"one\r\n\r\nstill one\r\n<|endoftext|>\r\n two \n <|endoftext|> \n\n<|endoftext|>\none <|endoftext|> inside\n<|endoftext|>\ntwo"
    )
    assert texts_of("a.txt", tmp_path) == ["one\n\nstill one", "two", "one <|endoftext|> inside"]
    (tmp_path / "b.txt").write_text(" \n = Title = \n \n text ü\nmore\n\n\n = Title = \n")
    assert texts_of("b.txt", tmp_path) == ["= Title =", "text ü\nmore"]
    assert texts_of(["b.txt", "a.txt"], tmp_path) == [*texts_of("b.txt", tmp_path), *texts_of("a.txt", tmp_path)]


def test_texts_of_rows(tmp_path):
    name = write_jsonl(
        tmp_path / "a.jsonl", [{"text": " b "}, {"text": None}, {"prompt": "p", "response": "r"}, {"text": "a"}, {"text": "b"}]
    )
    assert texts_of(name, tmp_path) == ["b", "p\nr", "a"]
    pl.DataFrame({"text": ["x", None, "y", "x"]}).write_parquet(tmp_path / "a.parquet")
    assert texts_of("a.parquet", tmp_path) == ["x", "y"]


@pytest.mark.parametrize("line", ["{", "3", '{"text": 3}', '{"body": "x"}', json.dumps(CHAT), '{"text": "\\ud800"}'])
def test_rows_without_text_are_errors_with_their_place(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line)
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not a text .*expected a column `text`"):
        texts_of("a.jsonl", tmp_path)


def test_texts_that_are_all_blank_are_an_error(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n ")
    with pytest.raises(ValueError, match="no text in it"):
        texts_of("a.txt", tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b\.txt: cannot be read"):
        texts_of("b.txt", tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real data are not at {REAL}; set ALPHATOKEN_REAL")
@pytest.mark.parametrize(
    ("name", "num_rows", "kind"), [("gsm8k_train", 7473, "prompt"), ("chat_toolcall", 300, "messages"), ("p3_sample", 3000, "prompt")]
)
def test_real_files(name, num_rows, kind):
    got = read(REAL, f"{name}.jsonl")
    assert (got.num_rows, got.rejected.height) == (num_rows, 0)
    assert got.examples["multiplicity"].sum() == num_rows
    assert all(kind in json.loads(content) for content in got.examples["content"])
    assert got.examples["source"].n_unique() > 10 if name == "p3_sample" else got.examples["source"].is_null().all()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real data are not at {REAL}; set ALPHATOKEN_REAL")
def test_real_texts_and_preferences():
    assert 2700 <= len(texts_of("tinystories.txt", REAL)) <= 2728
    assert len(texts_of("wikitext2_valid.txt", REAL)) > 1000
    for name, num_rows, num_examples, reasons in (
        ("preferences_pandalm", 894, 760, {"empty response": 52, "wrong type": 6}),
        ("preferences_dpo_en", 300, 295, {}),
    ):
        got = read(REAL, f"{name}.jsonl", max_rejected_share=0.1)
        assert (got.kind, got.num_rows, len(got.examples)) == ("preference", num_rows, num_examples)
        assert dict(got.rejected["reason"].value_counts().rows()) == reasons
        assert all(set(json.loads(content)) == {"prompt", "chosen", "rejected"} for content in got.examples["content"])
