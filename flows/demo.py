"""`alphatoken demo`: the main job on a generated world, with the very flows that real data go through."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows import demo_world
from flows.train_masked import train_masked
from flows.value_tokens import value_tokens
from models.settings import WarmupSettings
from reports.terminal import print_response, print_rows, rows
from tasks import base_model
from tasks.progress import Progress
from tasks.settings import load
from warehouse.digests import digest
from warehouse.migrate import SCHEMA_VERSION
from warehouse.read import Reader

_SEED = 7
_PRETRAINING = WarmupSettings(steps=700, batch_size=24, learning_rate=3e-3, seed=_SEED)

_CONFIG = """\
# The demo's configuration; `alphatoken status`, `sql`, `value` and `train` work from this folder.
data:
  train: {path: train.jsonl}
  validation: validation.jsonl
  evaluation: evaluation.jsonl
  retention: retention.txt
model: {reference: base-model}
scoring:
  warmup: {steps: 40, batch_size: 16, learning_rate: 1.0e-3, seed: 7}
  fisher: {num_sequences: 128, num_tokens: 64}
policy:
  components: {keep: 0.7}  # the four components, z-scores: the best of each response, beside the built-in `default` and `random`
training: {batch_size: 16, epochs: 2, learning_rate: 5.0e-4, seed: 7}
warehouse: {path: warehouse-vSCHEMA}
""".replace("SCHEMA", str(SCHEMA_VERSION))  # an older demo's warehouse is left alone

_QUERIES = (
    "SELECT token, count(*) AS n, avg(adapt_causal) AS value FROM token_values GROUP BY token ORDER BY value LIMIT 10",
    "SELECT source, policy, avg(keep::INT) AS kept FROM token_masks JOIN examples USING (example_id) GROUP BY ALL ORDER BY ALL",
    "SELECT * FROM training_metrics WHERE metric LIKE '%loss' ORDER BY policy, metric, step",
)


@dataclass(frozen=True)
class Arm:
    """A training of the demo: its mask, share of tokens kept, share of noise masked, target and retention loss (nats/token)."""

    policy: str
    kept: float
    noise_masked: float
    target: float
    retention: float


def run_demo(folder: Path | None = None) -> list[Arm]:
    """Make the world, pre-train the base model, value, mask, train four times, and tell what came out.

    Args:
        folder: where to put it; a folder of the user's cache when absent.

    Returns:
        the table's rows: before, full, random, components, default.
    """
    console = Console()
    began = time.monotonic()
    folder = (folder or Path.home() / ".cache" / "alphatoken" / "demo").resolve()
    console.print(f"[bold]AlphaToken demo[/bold] in {folder}")
    world = demo_world.generate(_SEED)
    _write_world(world, folder)
    _base_model(world, folder, console)
    config = folder / "alphatoken.yaml"
    done = value_tokens(str(config))
    print_rows(rows(done.counts), title="values and masks")
    receipts = {policy: train_masked(str(config), (), policy) for policy in ("full", "random", "components", "default")}
    with Reader(load(config).warehouse_folder) as reader:
        _show_response(reader)
        shares = {str(row[0]): row[1:] for row in reader.con.execute(_SHARES).fetchall()}
    before = receipts["full"].metrics
    arms = [Arm("before training", 0.0, 0.0, before["target_loss_before"], before["retention_loss_before"])]
    for policy, receipt in receipts.items():
        kept, noise_masked = shares[policy]
        arms.append(Arm(policy, kept, noise_masked, receipt.metrics["target_loss"], receipt.metrics["retention_loss"]))
    _print_table(arms, console)
    console.print(f"\nThe warehouse is {load(config).warehouse_folder}. Three questions to try, from {folder}:")
    for query in _QUERIES:
        console.print(f'  alphatoken sql "{query}"', highlight=False, soft_wrap=True)
    console.print(f"({time.monotonic() - began:.0f} s)")
    return arms


_SHARES = """
SELECT
    policy, avg(keep::INT) AS kept,
    1 - avg(keep::INT) FILTER (list_contains(from_json(extra, '{"corrupted": ["INT"]}').corrupted, rank)) AS noise_masked
FROM (
    SELECT masks.*, examples.extra, row_number() OVER (PARTITION BY masks.mask_id, masks.sequence_id ORDER BY masks.position) - 1 AS rank
    FROM token_masks AS masks
    JOIN examples USING (example_id)
)
GROUP BY policy
"""


def _write_world(world: demo_world.World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in (("train", world.train), ("validation", world.validation), ("evaluation", world.evaluation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    (folder / "retention.txt").write_text("\n<|endoftext|>\n".join(world.retention), encoding="utf-8")
    (folder / "alphatoken.yaml").write_text(_CONFIG, encoding="utf-8")


def _base_model(world: demo_world.World, folder: Path, console: Console) -> None:
    """Pre-train the base model, or take the one that an earlier demo left."""
    wanted = digest("demo", world.pretraining, vars(_PRETRAINING), base_model.CODE_VERSION)
    mark = folder / "base-model" / "made_of"
    if mark.is_file() and mark.read_text() == wanted:
        console.print("base model: pre-trained by an earlier demo")
        return
    began = time.monotonic()
    with Progress() as progress:
        loss = base_model.pretrain(
            demo_world.vocabulary(),
            world.pretraining,
            _PRETRAINING,
            folder / "base-model",
            lambda i, n, _: progress.steps("pre-training", i, n),
        )
    mark.write_text(wanted)
    console.print(f"base model: a small Llama pre-trained on stories and drills, {loss:.3f} nats/token ({time.monotonic() - began:.0f} s)")


def _show_response(reader: Reader) -> None:
    """Print the noisy response of which the default mask leaves out most."""
    frame = reader.sql(
        """
        WITH chosen AS (
            SELECT masks.example_id FROM token_masks AS masks JOIN examples USING (example_id)
            WHERE policy = 'default' AND source = 'noisy'
            GROUP BY masks.example_id ORDER BY avg(keep::INT), masks.example_id LIMIT 1
        )
        SELECT tokens.token, tokens.adapt_direct + tokens.adapt_causal AS score, masks.keep
        FROM token_values AS tokens
        JOIN token_masks AS masks USING (sequence_id, position)
        WHERE tokens.example_id = (SELECT example_id FROM chosen) AND masks.policy = 'default'
        ORDER BY tokens.position
        """
    )
    print_response(frame, "a noisy response: masked tokens are struck through, the brighter blue the more valuable")


def _print_table(arms: list[Arm], console: Console) -> None:
    table = Table(title="two epochs on noisy data, measured on clean data the training never saw", title_justify="left")
    for name in ("mask", "tokens kept", "noise masked", "target loss", "retention loss"):
        table.add_column(name, justify="left" if name == "mask" else "right")
    names: dict[str, Any] = {
        "full": "every token", "random": "random, as many", "components": "components, 70%", "default": "default",
    }  # fmt: skip
    for arm in arms:
        trained = arm.policy in names
        table.add_row(
            names.get(arm.policy, arm.policy), f"{arm.kept:.1%}" if trained else "", f"{arm.noise_masked:.1%}" if trained else "",
            f"{arm.target:.4f}", f"{arm.retention:.4f}",
        )  # fmt: skip
    console.print(table)
