"""Laws of tasks/parts.py: what is finished is read back as it was written, what is not does not look as if it were."""

import json
import math
import os

import pyarrow as pa
import pytest

from tasks.parts import CorruptPartError, finished_parts, make_plan, open_plans, read_part, write_part
from warehouse.write import PART_SCHEMAS

LENGTHS = {f"s{i}": 10 for i in range(9)}
BATCHES = [["s0", "s1"], ["s2"], ["s3", "s4", "s5"], ["s6"], ["s7", "s8"]]


def plan_in(work, *, part_tokens=30, batches=BATCHES, model="scoring", groups=None):
    return make_plan(work, model, groups or {"adapt": "A", "signals": "G"}, batches, LENGTHS, part_tokens, 30)


def rows(*sequence_ids):
    values = [{"sequence_id": s, "loss": [None, 0.5], "entropy": [None, float(i)]} for i, s in enumerate(sequence_ids)]
    return pa.Table.from_pylist(values, schema=PART_SCHEMAS["reference"])


# ---- plans


def test_a_plan_is_read_back_as_it_was_stored(tmp_path):
    plans = [plan_in(tmp_path), plan_in(tmp_path, model="reference", groups={"ref_signals": "R"})]
    assert sorted(open_plans(tmp_path), key=lambda p: p.model) == sorted(plans, key=lambda p: p.model)


def test_a_plan_of_before_its_budget_was_stored_fits_no_budget(tmp_path):
    file = plan_in(tmp_path).folder / "plan.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "batch_tokens"}))
    (plan,) = open_plans(tmp_path)
    assert plan.batch_tokens == math.inf


def test_batches_keep_their_order_and_a_part_ends_when_it_has_its_tokens(tmp_path):
    assert plan_in(tmp_path, part_tokens=30).parts == [[["s0", "s1"], ["s2"]], [["s3", "s4", "s5"]], [["s6"], ["s7", "s8"]]]
    assert plan_in(tmp_path, part_tokens=1).parts == [[batch] for batch in BATCHES]
    assert plan_in(tmp_path, part_tokens=10**9).parts == [BATCHES]


def test_the_sequences_from_a_part_on(tmp_path):
    plan = plan_in(tmp_path)
    assert plan.sequence_ids() == set(LENGTHS)
    assert plan.sequence_ids(1) == set(LENGTHS) - {"s0", "s1", "s2"}
    assert plan.sequence_ids(3) == set()


def test_the_same_plan_has_the_same_folder_and_any_other_another(tmp_path):
    variants = [
        {}, {"part_tokens": 1}, {"batches": BATCHES[::-1]}, {"model": "reference"}, {"groups": {"adapt": "A2", "signals": "G"}},
        {"groups": {"adapt": "A"}},
    ]  # fmt: skip
    folders = [plan_in(tmp_path, **variant).folder for variant in variants]
    assert len(set(folders)) == len(variants)
    assert plan_in(tmp_path).folder == folders[0]


def test_no_work_folder_means_no_plans(tmp_path):
    assert open_plans(tmp_path / "work") == []
    assert not (tmp_path / "work").exists()


def test_a_folder_without_a_whole_plan_is_removed_and_the_others_stay(tmp_path):
    plan = plan_in(tmp_path)
    part = write_part(plan, 0, rows("s0"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / ".plan.json.partial").write_text('{"model":')
    (tmp_path / "half" / "part-000000-0.parquet").write_bytes(b"?")
    assert open_plans(tmp_path) == [plan]
    assert list(tmp_path.iterdir()) == [plan.folder]
    assert part.exists()


def test_a_file_that_is_not_ours_is_left_alone(tmp_path):
    plan = plan_in(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert open_plans(tmp_path) == [plan]
    assert (tmp_path / ".DS_Store").exists()


def test_a_plan_that_dies_before_it_is_stored_is_no_plan(tmp_path, monkeypatch):
    def die(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="no space"):
        plan_in(tmp_path)
    monkeypatch.undo()
    assert open_plans(tmp_path) == []


# ---- parts


def test_a_part_is_read_back_as_it_was_written_null_included(tmp_path):
    plan = plan_in(tmp_path)
    written = rows("s1", "s0")
    path = write_part(plan, 3, written)
    assert path.parent == plan.folder
    assert read_part(path).equals(written)
    assert read_part(path).schema == PART_SCHEMAS["reference"]


def test_an_empty_part_keeps_its_columns(tmp_path):
    assert read_part(write_part(plan_in(tmp_path), 0, rows())).schema == PART_SCHEMAS["reference"]


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    plan = plan_in(tmp_path)
    written = {number: write_part(plan, number, rows(f"s{number % 9}")) for number in (11, 2, 100000, 0)}
    assert list(finished_parts(plan)) == sorted(written.items())


def test_the_same_rows_make_the_same_file_once(tmp_path):
    plan = plan_in(tmp_path)
    assert write_part(plan, 0, rows("s0")) == write_part(plan, 0, rows("s0"))
    assert len(list(finished_parts(plan))) == 1


def test_a_part_that_is_being_written_is_not_one(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    first = write_part(plan, 0, rows("s0"))
    (plan.folder / f".{first.name.replace('000000', '000001')}.partial").write_bytes(first.read_bytes())
    assert list(finished_parts(plan)) == [(0, first)]

    def die(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="no space"):
        write_part(plan, 1, rows("s1"))
    assert list(finished_parts(plan)) == [(0, first)]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "longer"])
def test_a_damaged_part_is_refused_with_its_name_and_what_to_do(tmp_path, damage):
    plan = plan_in(tmp_path)
    path, other = write_part(plan, 0, rows("s0")), write_part(plan, 1, rows("s1"))
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "truncated": content[:-1], "emptied": b"",
        "longer": content + b"\0",
    }[damage])  # fmt: skip
    with pytest.raises(CorruptPartError, match=r"Remove it and run again") as caught:
        read_part(path)
    assert str(path) in str(caught.value)
    assert read_part(other).equals(rows("s1"))
