"""Laws of flows/look.py: `report` and `show` answer from the current release, of the configuration or a named warehouse, without torch or Prefect."""

import subprocess
import sys

from tests.flows.driver import ROOT
from tests.flows.test_cli import _SCRIPT
from tests.warehouse.ids import beginning, full, short


def test_they_load_neither_torch_nor_prefect(pairs, tmp_path):
    lines = [f"report|--warehouse|{pairs}|--out|{tmp_path / 'a.html'}", f"show|{full('e01')}|--warehouse|{pairs}"]
    subprocess.run([sys.executable, "-c", _SCRIPT, *lines], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "a.html").stat().st_size > 10_000


def test_a_report_says_what_it_holds(valued_once, pairs, call, tmp_path):
    status, out, err = call("report", valued_once.config, "--out", tmp_path / "a.html")
    assert (status, err) == (0, "")
    num = valued_once.sql("SELECT count(DISTINCT example_id) FROM token_values")[0][0]
    assert f"a.html: all {num} examples, 0." in out
    status, out, _ = call("report", "--warehouse", pairs, "--out", tmp_path / "b.html", "--examples", 5, "--policy", "full")
    assert (status, "b.html: 5 of 45 examples" in out) == (0, True)
    assert '"policy":"full","embedded":{"num_examples":5' in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_a_report_of_what_is_not_there_says_so(pairs, call, tmp_path):
    status, _, err = call("report", "--warehouse", tmp_path, "--out", tmp_path / "a.html")
    assert (status, err.startswith("error: no warehouse with a release at")) == (1, True)
    status, _, err = call("report", "--warehouse", pairs, "--set", "training.policy=full", "--out", tmp_path / "a.html")
    assert (status, "so --set has nothing to override" in err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_show_completes_an_id_and_names_what_it_cannot_find(pairs, call):
    status, out, err = call("show", beginning("e01"), "--warehouse", pairs, "--column", "loss", "--policy", "full")
    assert (status, err.startswith("release ")) == (0, True)
    assert short(out).startswith("e01 (chosen), policy full: 14 of 14 tokens kept, mean loss ")
    for given, says in (
        ([beginning("e0")], f"several examples begin with '{beginning('e0')}'"),
        (["x"], "there is no example 'x'"),
        ([full("e01"), "--column", "x"], "no column of values 'x'"),
    ):
        status, out, err = call("show", *given, "--warehouse", pairs)
        assert (status, out) == (1, "")
        assert says in err
