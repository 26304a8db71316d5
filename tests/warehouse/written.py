"""A small warehouse, written out by hand: three examples, two scorings, three masks, one example that is gone and one without a sequence."""

import json

from tests.warehouse.ids import filled
from warehouse.connect import Warehouse
from warehouse.release import write_release

WHEN = "TIMESTAMP '2026-01-01'"
VOCABULARY = ["<s>", " cat", " 12", ".", "\n", "</s>", "it's", "a1", "<0xE2>", "<|im_end|>"]
SETTINGS = {
    "estimator": "exact", "dtype": "float32", "reference": {"name": "base", "digest": "r0"}, "scoring": {"name": "warm-up", "digest": "r1"},
    "adapt": {"digest": "d1"}, "stab": {"digest": "d2"}, "validation_snapshot": "val", "made_on_snapshot": "before",
    "code_versions": {"directions": 2, "probe": 3},
}  # fmt: skip
INSERTS = [
    "runs VALUES ('run1', 'value_tokens', 'completed', TIMESTAMP '2026-01-01 00:00:00', TIMESTAMP '2026-01-01 00:00:40', '{\"data\": 1}', '{\"alphatoken\": \"0.1.0\"}', 'abc123', 0, '{}', "
    """ '{"tokenize": {"num_tokenized": 3}, "directions": {"num_made": 4}, "score": {"num_sequences": 3, "num_tokens": 14, "seconds": 10.0}}', NULL)""",
    "runs VALUES ('run2', 'mask', 'running', TIMESTAMP '2026-01-02', NULL, '{}', '{}', NULL, 0, '{}', NULL, NULL)",
    "examples VALUES ('id:e1', '{\"prompt\": \"one\"}'), ('id:e2', 'two'), ('id:e3', 'three')",
    "snapshot_examples VALUES ('snap', 'id:e1', 3, 'a', NULL, 'f', 1), "
    "('snap', 'id:e2', 1, NULL, NULL, 'f', 2), ('snap', 'id:e3', 1, 'a', NULL, 'f', 3)",
    f"tokenizations VALUES ('tok', 'v', '{{}}', 'run1', {WHEN})",
    "example_sequences SELECT 'tok', e, 'sft', s, 0, 0, NULL, NULL "
    "FROM (VALUES ('id:e1', 'id:s1'), ('id:e2', 'id:s2'), ('id:e3', 'id:s3')) AS ids(e, s)",
    "sequences VALUES ('id:s1', [0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [5]), "
    "('id:s2', [0, 1, 6, 7, 9], [1, 2, 3, 4], [4]), ('id:s3', [0, 1, 2], [1, 2], [])",
    "direction_values VALUES ('A', 'id:s1', [1, -1, NULL, 2], [0, 1, 0.5, 0], 0), ('A', 'id:s2', [-2, -2, 3, 4], [1, -1, 0, 0], 0), ('A', 'id:s3', [1, 3], [2, 0], 0)",
    "direction_values VALUES ('A0', 'id:s1', [2, -1, NULL, 1], [0, -1, 0.5, 0], 0)",
    "direction_values VALUES ('S', 'id:s1', [1, 1, 1, 1], [0, 0, 0, 0], 0), ('S', 'id:s2', [-1, -1, 1, 0], [0, 0, 0, 0], 0), ('S', 'id:s3', [-1, 1], [0, 0], 0)",
    "signal_values (signals_id, sequence_id, loss, entropy) VALUES ('G', 'id:s1', [1, 2, 3, 0], [0.5, 0.5, 0.5, 0.5]), ('G', 'id:s2', [1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]), ('G', 'id:s3', [2, 2], [0.5, 0.5])",
    "signal_values (signals_id, sequence_id, loss, entropy) VALUES ('R', 'id:s1', [2, 3, 4, 1], NULL), ('R', 'id:s2', [2, 2, 2, 2], NULL), ('R', 'id:s3', [3, 3], NULL)",
    f"scorings VALUES ('old', 'tok', 'A0', 'S', 'G', 'R', '{{}}', 'run1', {WHEN})",
    f"scorings VALUES ('new', 'tok', 'A', 'S', 'G', 'R', '{json.dumps(SETTINGS)}', 'run1', {WHEN} + INTERVAL 1 DAY)",
    f"snapshots VALUES ('before', 'train', 'sft', 2, 4, 0, 'run1', {WHEN} - INTERVAL 1 DAY), ('snap', 'train', 'sft', 3, 5, 0, 'run1', {WHEN})",
    f"snapshots VALUES ('val', 'validation', 'sft', 7, 7, 0, 'run1', {WHEN})",
    "examples VALUES ('id:gone', '{\"prompt\": \"p\", \"response\": \"r\"}'), ('id:e4', '{\"prompt\": \"p\", \"response\": \"\"}')",
    "snapshot_examples VALUES ('before', 'id:gone', 1, NULL, NULL, 'f', 9), ('before', 'id:e1', 1, 'b', NULL, 'f', 1)",
    "snapshot_examples VALUES ('snap', 'id:e4', 1, 'a', NULL, 'f', 4)",
    "example_sequences VALUES ('tok', 'id:e4', 'sft', NULL, 0, 0, 'empty_response', 'nothing to learn')",
    f"masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at) VALUES ('m1', 'default', '{{}}', 'new', 'snap', 10, 5, 'run1', {WHEN}), ('m2', 'random', '{{}}', 'new', 'snap', 10, 4, 'run1', {WHEN})",
    f"masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at) VALUES ('m0', 'outdated', '{{}}', 'old', 'snap', 10, 10, 'run1', {WHEN})",
    "mask_values (mask_id, sequence_id, keep, num_tokens, num_kept) VALUES ('m1', 'id:s1', [true, false, false, true], 4, 2), ('m1', 'id:s2', [false, false, false, true], 4, 1), ('m1', 'id:s3', [true, true], 2, 2)",
    "mask_values (mask_id, sequence_id, keep, num_tokens, num_kept) VALUES ('m2', 'id:s1', [false, true, false, true], 4, 2), ('m2', 'id:s2', [true, false, false, true], 4, 2), ('m2', 'id:s3', [false, false], 2, 0)",
    "pointers VALUES ('snapshot', 'snap'), ('tokenization', 'tok'), ('scoring', 'new'), ('mask:default', 'm1'), ('mask:random', 'm2'), ('mask:outdated', 'm0')",
]  # fmt: skip


def make(folder):
    """Write it to a new folder, with a release."""
    with Warehouse(folder) as warehouse, warehouse.transaction():
        for insert in INSERTS:
            warehouse.con.execute(filled(f"INSERT INTO record.{insert}")).fetchall()
        for number, token in enumerate(VOCABULARY):
            warehouse.con.execute("INSERT INTO record.vocabulary VALUES ('v', ?, ?)", [number, token]).fetchall()
    write_release(folder, 2)
    return folder
