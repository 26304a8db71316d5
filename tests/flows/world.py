"""The small world of the flow tests: a Llama of 2 layers and width 32, 40 training rows, and projects made of them."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

NUM_TRAIN = 40
BAD_ROWS = ['{"prompt": "one plus one ?"}', "no JSON at all"]
"""Rows at the end of train.jsonl that cannot be used: 2 of 42, within the share that is allowed."""


def make_template(folder: Path) -> Path:
    """Write model, data files and configuration."""
    from flows import demo_world

    made = demo_world.generate(3, NUM_TRAIN)
    write_rows(folder / "train.jsonl", made.train)
    with (folder / "train.jsonl").open("a") as file:
        file.write("".join(row + "\n" for row in BAD_ROWS))
    write_rows(folder / "validation.jsonl", made.validation[:6])
    write_rows(folder / "evaluation.jsonl", made.evaluation[:8])
    (folder / "retention.txt").write_text("\n<|endoftext|>\n".join(made.retention[:10]))
    make_model(folder / "model", demo_world.vocabulary(), made.pretraining[:200])
    configuration = {
        "data": {
            "train": {"path": "train.jsonl"}, "validation": "validation.jsonl", "evaluation": "evaluation.jsonl", "retention": "retention.txt",
        },
        "model": {"reference": str(folder / "model"), "device": "cpu"},
        "scoring": {
            "batch_tokens": 256, "part_tokens": 256,
            "warmup": {"steps": 6, "batch_size": 8, "learning_rate": 3e-3}, "fisher": {"num_sequences": 8, "num_tokens": 16},
        },
        "policy": {"default": {}},  # every value of every token decides, and no value of the validation set is asked for
        "training": {"batch_size": 8, "max_steps": 6, "learning_rate": 3e-3, "save_steps": 2},
        "warehouse": {"path": "warehouse", "lock_timeout_s": 1},
    }  # fmt: skip
    (folder / "alphatoken.yaml").write_text(yaml.safe_dump(configuration))
    return folder


def make_model(folder: Path, words: list[str], texts: list[str]) -> None:
    """Train a tiny Llama for a moment and save it with its tokenizer of whole words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.settings import WarmupSettings
    from models.training import fit
    from tasks.base_model import word_tokenizer

    tokenizer = word_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=96, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
    encoded = [[1, *ids, 2] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    settings = WarmupSettings(steps=30, batch_size=16, learning_rate=1e-2)
    fit(model, [(ids, list(range(1, len(ids)))) for ids in encoded], settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def purchases(seed: int, number: int) -> list[dict[str, Any]]:
    """Make further training rows."""
    from flows import demo_world

    return demo_world.generate(seed, number).train


@dataclass(frozen=True)
class Project:
    """A folder with a configuration, and what users do with it."""

    folder: Path

    @classmethod
    def copy_of(cls, folder: Path, target: Path) -> "Project":
        """Copy data, configuration and warehouse; the model stays where it is."""
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model"))
        return cls(target)

    @classmethod
    def moved(cls, valued: "Project", target: Path) -> "Project":
        """Copy a valued project, with the remembered digests under the new paths: a further run has nothing to write."""
        copy = cls.copy_of(valued.folder, target)
        with duckdb.connect(str(copy.warehouse / "alphatoken.duckdb")) as con:
            con.execute("UPDATE record.file_digests SET path = replace(path, $old, $new)", {"old": str(valued.folder), "new": str(target)})
        return copy

    @property
    def config(self) -> Path:
        return self.folder / "alphatoken.yaml"

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse"

    def settings(self) -> dict[str, Any]:
        """Read the configuration as plain data."""
        return yaml.safe_load(self.config.read_text())

    @property
    def model(self) -> Path:
        return Path(self.settings()["model"]["reference"])

    def train_rows(self) -> list[dict[str, Any]]:
        """Read the usable rows of train.jsonl."""
        lines = (self.folder / "train.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line not in BAD_ROWS]

    def write_train(self, rows: list[dict[str, Any]]) -> None:
        """Replace train.jsonl, its bad rows kept."""
        write_rows(self.folder / "train.jsonl", rows)
        with (self.folder / "train.jsonl").open("a") as file:
            file.write("".join(row + "\n" for row in BAD_ROWS))

    def value(self, *overrides: str, refresh: bool = False) -> Any:
        """Run the flow `value_tokens`."""
        from flows.value_tokens import value_tokens

        return value_tokens(str(self.config), list(overrides), refresh)

    def mask(self, *overrides: str, policy: str | None = None) -> Any:
        """Run the flow `mask`."""
        from flows.value_tokens import mask_tokens

        return mask_tokens(str(self.config), list(overrides), policy)

    def prune(self, *overrides: str, **rules: Any) -> Any:
        """Run the flow `prune`."""
        from flows.prune import prune_warehouse

        return prune_warehouse(str(self.config), list(overrides), **rules)

    def train(self, *overrides: str, policy: str | None = None) -> Any:
        """Run the flow `train_masked`."""
        from flows.train_masked import train_masked

        return train_masked(str(self.config), list(overrides), policy)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the current release."""
        current = (self.warehouse / "releases" / "CURRENT").read_text()
        return _ask(self.warehouse / "releases" / current / "alphatoken.duckdb", query)

    def live(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the live file; nobody writes it at that moment."""
        return _ask(self.warehouse / "alphatoken.duckdb", query)

    def bytes_of_warehouse(self) -> dict[str, bytes]:
        """Read every file of the warehouse but the lock and the mark that a server has heard of a release."""
        files = (p for p in sorted(self.warehouse.rglob("*")) if p.is_file() and p.name not in {"writer.lock", "announced"})
        return {str(p.relative_to(self.warehouse)): p.read_bytes() for p in files}


def _ask(database: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as con:
        return con.execute(query).fetchall()


VALUES = {
    "direction_values": "SELECT values_id, sequence_id, direct, causal, prompt_context FROM record.direction_values ORDER BY values_id, sequence_id",
    "signal_values": "SELECT signals_id, sequence_id, loss, entropy FROM record.signal_values ORDER BY signals_id, sequence_id",
    "mask_values": "SELECT mask_id, sequence_id, keep FROM record.mask_values ORDER BY mask_id, sequence_id",
}
"""Everything that was computed, in an order of its own."""


def stored(project: Project) -> dict[str, list[tuple[Any, ...]]]:
    """Read all values and masks of the live file, as they are: Python compares the doubles bit by bit."""
    return {table: project.live(query) for table, query in VALUES.items()}


@contextmanager
def without_prefect():
    """Flows and tasks as the plain functions they are, so that a run costs neither a server nor its bookkeeping."""
    with pytest.MonkeyPatch.context() as patch:
        unplug(patch.setattr)
        yield


def unplug(replace: Any) -> None:
    """Replace every flow and task by its function, and artifacts by nothing; `replace(module, name, value)` does it."""
    from prefect import Flow, Task

    import flows.artifacts
    import flows.prune
    import flows.rounds
    import flows.self_test
    import flows.study
    import flows.train_masked
    import flows.value_tokens
    from tasks import alerts, pruning, stages

    with_flows = (flows.prune, flows.rounds, flows.self_test, flows.study, flows.train_masked, flows.value_tokens)
    for module in (alerts, stages, pruning, *with_flows):
        for name, found in list(vars(module).items()):
            if isinstance(found, Flow | Task):
                replace(module, name, found.fn)
    for module, name in (
        (flows.artifacts, "create_markdown_artifact"), (flows.artifacts, "create_table_artifact"), (flows.artifacts, "create_link_artifact"),
        (alerts, "create_table_artifact"), (stages, "create_progress_artifact"), (stages, "update_progress_artifact"),
    ):  # fmt: skip
        replace(module, name, lambda *_, **__: None)
