"""Preference pairs e00, e01, ... written by hand: texts that try to break a page, values at their bounds, two scorings, three trainings."""

import json

from tests.warehouse.ids import full
from warehouse.connect import Warehouse
from warehouse.release import write_release

WHEN = "TIMESTAMP '2026-01-01'"
VOCABULARY = [
    "<s>", " the", " cat", " sat", ".", "\n", "</s>", "</script><script>document.title = 'broken out'</script>", "<img src=x onerror=\"document.title='broken out'\">",
    "<!--", "   ", "\u202eevil", "a" * 300, " Ünïcode", "&amp;", "\u2028", "",
]  # fmt: skip
OUTSIDE = 999
NUM_EXAMPLES = 45
PROMPT = [0, 1, 2, 7]


def response(number, branch):
    """Token ids of a response: the same words in both branches, and those that try to break the page."""
    words = [3, 4, 5, 10, 8, 9, 11, 12, 13, 14, 15, 16, OUTSIDE]
    turned = words[number % len(words) :] + words[: number % len(words)]
    return [*(turned if branch == "chosen" else turned[::-1][:8]), 6]


def values(number, branch, column):
    """Values of a response in one column; None where there is none."""
    sign = 1 if branch == "chosen" else -1
    made = [sign * (number + 1) * ((7 * place + 3 * column) % 11 - 5) / 50 for place in range(len(response(number, branch)))]
    return [None if (place, column, number) == (0, 0, 0) else value for place, value in enumerate(made)]


def signals(number, branch):
    """Losses, the same under both models: every margin is 0, and with β = 2 values are weighed by β σ(0) = 1."""
    return [abs(value or 0) for value in values(number, branch, 4)]


def keeps(number, branch, policy):
    return [
        policy == "full" or (value or -1) > 0 or place + 1 == len(response(number, branch))
        for place, value in enumerate(values(number, branch, 0))
    ]


def make(folder, branches=("chosen", "rejected"), num_examples=NUM_EXAMPLES):
    """Write it to a new folder, with a release."""
    settings = {
        "estimator": "exact",
        "dtype": "float32",
        "reference": {"name": "base"},
        "scoring": {"name": "warm-up"},
        "stab": {"norm": 1.5},
    }
    trained = {"settings": {"learning_rate": 0.001, "epochs": 1.0, "seed": 7, "start": "reference"}}
    policy = {"select": "value", "keep": 0.7, "threshold": None, "weights": {"adapt_direct": 1.0}, "expression": None, "normalization": "zscore", "normalize_over": "dataset", "scope": "response", "soft": "none"}  # fmt: skip
    with Warehouse(folder) as warehouse, warehouse.transaction():
        waiting = {}

        def insert(table, rows, columns=""):
            waiting.setdefault(f"{table} {columns}", []).extend(rows)

        when = [warehouse.con.execute(f"SELECT {WHEN} + INTERVAL {n} DAY").fetchall()[0][0] for n in range(3)]
        insert("vocabulary", [("v", number, token) for number, token in enumerate(VOCABULARY)])
        insert("tokenizations", [("tok", "v", "{}", "run", when[0])])
        insert(
            "snapshots", [("snap", "train", "preference" if len(branches) > 1 else "sft", num_examples, num_examples, 0, "run", when[0])]
        )
        insert(
            "scorings",
            [
                ("old", "tok", "A0", "S", "G", "R", "{}", "run", when[0]),
                ("new", "tok", "A", "S", "G", "R", json.dumps(settings), "run", when[1]),
            ],
        )
        names = [("default", "m1", json.dumps(policy)), ("full", "m2", json.dumps({"select": "all"}))]
        for number in range(num_examples):
            name = f"e{number:02d}"
            example = full(name)
            insert("examples", [(example, json.dumps({"prompt": "the cat"}))])
            insert(
                "snapshot_examples",
                [("snap", example, 1 + number % 2, ["web", "code", None][number % 3], None, "/data/pairs.jsonl", number + 1)],
            )
            for branch in branches:
                ids = response(number, branch)
                sequence = full(f"{name}-{branch}")
                positions = list(range(len(PROMPT), len(PROMPT) + len(ids)))
                insert("example_sequences", [("tok", example, branch, sequence, 0, 0, None, None)])
                insert("sequences", [(sequence, [*PROMPT, *ids], positions, positions[-1:])])
                columns = [values(number, branch, column) for column in range(4)]
                insert(
                    "direction_values",
                    [("A", sequence, *columns[:2], 0.0), ("S", sequence, *columns[2:], 0.0), ("A0", sequence, columns[1], columns[0], 0.0)],
                )
                for signals_id in "GR":
                    loss = signals(number, branch)
                    insert(
                        "signal_values",
                        [(signals_id, sequence, loss, loss if signals_id == "G" else None)],
                        "(signals_id, sequence_id, loss, entropy)",
                    )
                for policy_name, mask, _ in names:
                    kept = keeps(number, branch, policy_name)
                    insert(
                        "mask_values", [(mask, sequence, kept, len(kept), sum(kept))], "(mask_id, sequence_id, keep, num_tokens, num_kept)"
                    )
        total = sum(len(response(n, b)) for n in range(num_examples) for b in branches)
        kept = {name: sum(sum(keeps(n, b, name)) for n in range(num_examples) for b in branches) for name, _, _ in names}
        insert("masks", [(mask, name, told, "new", "snap", total, kept[name], "run", when[1], None) for name, mask, told in names])
        for day, (name, mask) in enumerate((("default", "m1"), ("full", "m2"), ("default", "m0"))):
            training = f"t{day}"
            insert("trainings", [(training, name, mask, "r", json.dumps(trained), "/checkpoints", "completed", "run", when[2 - day])])
            curve = [
                (0, "target_loss", 2.0),
                (10, "target_loss", 1.5 - day / 10),
                (0, "retention_loss", 1.0),
                (10, "retention_loss", 1.2),
                (1, "train_loss", 2.0),
                (5, "train_loss", 1.7),
            ]
            insert("training_metrics", [(training, *point) for point in curve])
        insert(
            "pointers",
            [
                ("snapshot", "snap"),
                ("tokenization", "tok"),
                ("scoring", "new"),
                ("beta", "2.0"),
                *((f"mask:{name}", mask) for name, mask, _ in names),
            ],
        )
        for table, rows in waiting.items():
            places = ", ".join("(" + ", ".join("?" for _ in row) + ")" for row in rows)
            warehouse.con.execute(f"INSERT INTO record.{table} VALUES {places}", [value for row in rows for value in row]).fetchall()
    write_release(folder, 2)
    return folder
