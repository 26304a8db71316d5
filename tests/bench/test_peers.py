"""Laws of bench/peers.py and its parts that need no peer: the task's forms say the same, our side equals a slow loop, tables and failures are told."""

import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.peer_child import TOOLS, _padded, block_linears, measure
from bench.peer_environments import PeerError, make_environment, run
from bench.peer_task import IGNORED, TaskSizes, empty_values, read_documents, write_task
from bench.peers import Case, Measured, agreement, main, ranks, table
from tests.reference.position_loss_matrix import losses_of, position_loss_matrix

SIZES = TaskSizes(documents=5, validation=3, shortest=4, longest=11, vocabulary=23, hidden=32, layers=2, positions=64)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    write_task(folder, SIZES)
    return folder


def test_every_tool_is_given_the_same_documents(task):
    from datasets import load_from_disk

    for split, count in (("train", 5), ("validation", 3), ("warm_up", 2)):
        documents = read_documents(task, split)
        saved = load_from_disk(str(task / split))
        assert len(documents) == count
        assert saved["input_ids"][:] == [d.input_ids for d in documents]
        assert saved["labels"][:] == [d.labels for d in documents]
        for document, padded in zip(documents, _padded(documents), strict=True):
            length = len(document.input_ids)
            assert 4 <= length <= 11
            assert padded["input_ids"][:length].tolist() == document.input_ids
            assert padded["labels"].tolist() == document.labels + [IGNORED] * (len(padded["labels"]) - length)
            assert document.response == list(range(document.response[0], length))  # the prompt is never empty
            assert document.response[0] >= 1
    assert read_documents(task, "warm_up") == read_documents(task, "train")[:2]


def test_the_task_is_drawn_from_its_seed_alone(task, tmp_path):
    write_task(tmp_path / "again", SIZES)
    assert read_documents(tmp_path / "again", "train") == read_documents(task, "train")
    one, two = (AutoModelForCausalLM.from_pretrained(folder / "model").state_dict() for folder in (task, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_scope_is_the_linears_of_the_blocks(task):
    names = block_linears(AutoModelForCausalLM.from_pretrained(task / "model"))
    assert len(names) == 2 * 7
    assert not any("lm_head" in name or "embed" in name or "norm" in name for name in names)


@pytest.fixture(scope="module")
def slow(task):
    """Both axes of the slow loop in float64, the direction by one backward pass per validation document."""
    model = AutoModelForCausalLM.from_pretrained(task / "model", dtype=torch.float64).eval()
    scope = [f"{name}.weight" for name in block_linears(model)]
    parameters = dict(model.named_parameters())
    direction = {name: torch.zeros_like(parameters[name]) for name in scope}
    for document in read_documents(task, "validation"):
        losses = losses_of(model, torch.tensor(document.input_ids))
        loss = sum(losses[u - 1] for u in document.response)
        for name, gradient in zip(scope, torch.autograd.grad(loss, [parameters[n] for n in scope]), strict=True):
            direction[name] += gradient
    model.requires_grad_(False)
    documents = read_documents(task, "train")
    context, target = empty_values(documents), empty_values(documents)
    for i, document in enumerate(documents):
        matrix_UP = position_loss_matrix(model, torch.tensor(document.input_ids), direction)[document.response]
        context[i, : len(document.input_ids) - 1] = matrix_UP.sum(0)[:-1]
        target[i, document.response] = matrix_UP.sum(1)
    return {"context": context, "target": target}


@pytest.mark.parametrize("tokens", [8, 64])
@pytest.mark.parametrize(("tool", "axes"), [("ours", {"context"}), ("ours-target", {"target"}), ("ours-all", {"context", "target"})])
def test_our_values_equal_the_slow_loop_at_the_scope_of_the_peers(task, slow, tmp_path, tokens, tool, axes):
    values = TOOLS[tool](task, "train", tmp_path, tokens)
    assert set(values) == axes
    for axis, table_ in values.items():
        gap, spearman = agreement(table_, slow[axis])
        assert gap < 1e-4, axis
        assert spearman > 0.999, axis


def test_agreement_sees_a_shift_a_scale_and_a_missing_row(slow):
    context = slow["context"]
    assert agreement(context, context) == (0.0, pytest.approx(1.0))
    assert agreement(context * 2, context)[0] == pytest.approx(1.0)
    one = context.copy()
    one[3, 0] += 0.5 * np.nanmax(np.abs(context[3]))
    assert agreement(one, context)[0] == pytest.approx(0.5, rel=1e-5)  # the worst document decides
    one[3, 0] = np.nan
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(one, context)
    assert agreement(-context, context)[1] == pytest.approx(-1.0)


def test_equal_values_share_their_mean_rank():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_the_timed_run_follows_a_warm_up_and_its_peak_is_its_own(task, tmp_path):
    calls = []

    def score(folder, split, out, tokens):
        calls.append(split)
        return {"context": np.ones(40_000_000 if split == "train" else 1, dtype=np.float32)}

    values, report = measure(score, task, tmp_path, 64)
    assert calls == ["warm_up", "train"]
    assert len(values["context"]) == 40_000_000
    assert 150e6 < report["peak_bytes"] < 250e6
    assert report["seconds"] > 0


def test_a_case_that_failed_has_no_row_and_medians_are_taken(slow):
    reports = [{"seconds": s, "cpu_seconds": s, "peak_bytes": 5e6} for s in (9.0, 2.0, 4.0)]
    cases = [Case("ours", "ours", "context"), Case("ours-target", "ours", "target"), Case("bergson", "bergson", "context")]
    context, target = ({axis: slow[axis]} for axis in ("context", "target"))
    measured = {
        ("ours", 64): context,
        ("ours-target", 64): target,
        ("ours", 128): context,
        ("ours-target", 128): target,
        ("bergson", 128): context,
    }
    lines = table(cases, {key: Measured(reports, values) for key, values in measured.items()}, 100)
    named = [line.split(" | ")[:3] for line in lines[2:]]
    assert named == [
        ["| 64", "ours", "context"], ["| 64", "ours", "target"],
        ["| 128", "ours", "context"], ["| 128", "ours", "target"], ["| 128", "bergson", "context"],
    ]  # fmt: skip
    assert all("| 4.00 | 25 |" in line and line.endswith("| 5 |") for line in lines[2:])


def test_a_failed_command_names_itself_its_status_and_its_last_words():
    with pytest.raises(PeerError, match=r"status 3:\nnot today") as failed:
        run([sys.executable, "-c", "print('not today'); raise SystemExit(3)"])
    assert sys.executable in str(failed.value)


@pytest.mark.slow
def test_a_peer_that_cannot_be_had_is_told_and_the_table_goes_on_without_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    small = ["--tokens", "256", "--repeats", "1", "--threads", "1", "--documents", "4", "--validation", "2"]
    assert main(["--peers", "kronfluence", "--environments", str(tmp_path), *small]) == 1
    assert not (tmp_path / "kronfluence").exists()
    told = capsys.readouterr().out
    assert "kronfluence left out, its environment cannot be made: `" in told
    assert "install" in told
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| 256 ")]
    assert [row[1:3] for row in rows] == [
        ["ours", "context, 1 direction"],
        ["ours", "target, 1 direction"],
        ["ours", "context and target, 2 directions"],
    ]
    assert [row[3] for row in rows[:2]] == ["0.0e+00"] * 2  # what the others are compared with
    assert float(rows[2][3]) < 1e-5


def test_a_complete_environment_of_the_same_requirements_is_taken_as_it_is(tmp_path):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "requirements.txt").write_text("a==1\nb\n")
    assert make_environment("peer", tmp_path, ["a==1", "b"]).python == tmp_path / "peer" / "bin" / "python"
