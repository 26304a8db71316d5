"""One tool values the common task in a process of its own, with the interpreter of its own environment.

python bench/peer_child.py TOOL TASK_FOLDER OUTPUT_FOLDER TOKENS_PER_BATCH

Writes `context.npy` or `target.npy` or both, float32 [documents, positions], NaN where a row does not exist, and `report.json`. The direction is
the gradient of the **summed** loss of all validation response tokens, by the weights of the Linears inside the blocks. context[d, p]: what the
summed loss of document d draws from the computation at position p < length - 1, prompt included. target[d, u]: of token u's loss alone.

Time runs from the model's folder to values in memory, without imports: a warm-up on two documents comes first. Peak memory is that of the
timed run above what the process held before it.
"""

import gc
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))  # last: in a peer's environment its own packages come first
from bench.peer_task import IGNORED, Document, empty_values, read_documents

Values = dict[str, np.ndarray]


def block_linears(model) -> list[str]:
    """Name the Linears inside the blocks of a Llama: the scope that all tools share."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith("model.layers.")]


def score_ours(
    task: Path, split: str, folder: Path, tokens: int, *, axes: Sequence[str] = ("context", "target"), extra: bool = False
) -> Values:
    """Value with models/probe.py.

    Args:
        task: folder of the task.
        split: which documents.
        folder: for files; not used.
        tokens: padded tokens per batch.
        axes: which axes to read.
        extra: value a second direction, too (random; it stands for stability), whose values are dropped.

    Returns:
        the axes asked for.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from models.batches import collate, plan_batches
    from models.directions import validation_gradient
    from models.probe import probe, scale_directions

    model = AutoModelForCausalLM.from_pretrained(task / "model", dtype=torch.float32).eval().requires_grad_(False)
    scope = [f"{name}.weight" for name in block_linears(model)]
    validation, documents = read_documents(task, "validation"), read_documents(task, split)
    mean, _ = validation_gradient(model, [collate([d.input_ids for d in validation], [d.response for d in validation])], scope)
    num_tokens = sum(len(d.response) for d in validation)
    directions = {"validation": {name: gradient * num_tokens for name, gradient in mean.items()}}
    if extra:
        directions["second"] = {name: torch.randn_like(gradient) for name, gradient in mean.items()}
    scaled = scale_directions(model, directions)
    values = {axis: empty_values(documents) for axis in axes}
    for rows in plan_batches([(str(i), len(d.input_ids)) for i, d in enumerate(documents)], tokens):
        chosen = [int(row) for row in rows]
        batch = collate([documents[i].input_ids for i in chosen], [documents[i].response for i in chosen])
        result = probe(model, batch, scaled, axes=axes)
        for axis, by_direction in (("context", result.context_BT), ("target", result.target_BT)):
            for row, i in enumerate(chosen if axis in axes else []):
                length = len(documents[i].input_ids) - (axis == "context")  # the last token has no later loss, and peers have no row
                values[axis][i, :length] = by_direction["validation"][row, :length].numpy()
    return values


def score_bergson(task: Path, split: str, folder: Path, tokens: int, *, influence: str = "gradient") -> Values:
    """Value with bergson: `build` for the summed validation gradient, `score --attribute_tokens`, no projection.

    Args:
        task: folder of the task.
        split: which documents.
        folder: for its index and scores.
        tokens: padded tokens per batch.
        influence: its `token_influence`: `gradient` is the context axis, `output` the target axis.

    Returns:
        one axis. Its rows of prompt targets, which are 0, are left out.

    Raises:
        ValueError: a document has another number of rows than bergson promises.
    """
    from bergson import DataConfig, IndexConfig, PreprocessConfig, ScoreConfig
    from bergson.cli.commands import Build, Score
    from bergson.data import load_scores

    def index(name: str, data: str, **settings: bool) -> IndexConfig:
        return IndexConfig(
            run_path=str(folder / name), model=str(task / "model"), data=DataConfig(dataset=str(task / data)), precision="fp32",
            projection_dim=0, token_batch_size=tokens, loss_reduction="sum", **settings,
        )  # fmt: skip

    Build(index("query", "validation"), PreprocessConfig(aggregation="sum")).execute()
    score = ScoreConfig(query_path=str(folder / "query"), token_influence=influence)
    Score(score, index("scores", split, attribute_tokens=True), PreprocessConfig()).execute()
    scores = load_scores(folder / "scores")
    documents = read_documents(task, split)
    values = empty_values(documents)
    for i, document in enumerate(documents):
        rows = scores.get(slice(scores.offsets[i], scores.offsets[i + 1]))
        if len(rows) != len(document.input_ids) - 1:
            raise ValueError(f"bergson: document {i} of {len(document.input_ids)} tokens has {len(rows)} rows, expected one less")
        first = 0 if influence == "gradient" else 1
        values[i, first : first + len(rows)] = rows
        if influence == "output":
            values[i, : len(document.labels)][np.array(document.labels) == IGNORED] = np.nan
    return {"context" if influence == "gradient" else "target": values}


def score_kronfluence(task: Path, split: str, folder: Path, tokens: int) -> Values:
    """Value with kronfluence: identity factors, `compute_per_token_scores`, the query gradients aggregated.

    Args:
        task: folder of the task.
        split: which documents.
        folder: for its factors and scores.
        tokens: padded tokens per batch; all documents are padded to the longest.

    Returns:
        the context axis.
    """
    import torch
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(task / "model", dtype=torch.float32)
    documents, validation = read_documents(task, split), read_documents(task, "validation")
    width = max(len(d.input_ids) for d in documents)
    language_task = _kronfluence_task(block_linears(model))
    analyzer = Analyzer("run", model=prepare_model(model, language_task), task=language_task, cpu=True, output_dir=str(folder))
    train = _padded(documents)
    analyzer.fit_all_factors("identity", train, factor_args=FactorArguments(strategy="identity"))
    analyzer.compute_pairwise_scores(
        "scores", "identity", query_dataset=_padded(validation), train_dataset=train, per_device_query_batch_size=len(validation),
        per_device_train_batch_size=max(1, tokens // width),
        score_args=ScoreArguments(compute_per_token_scores=True, aggregate_query_gradients=True),
    )  # fmt: skip
    scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    values = empty_values(documents)
    for i, document in enumerate(documents):
        rows = len(document.input_ids) - 1
        values[i, :rows] = scores[0, i, :rows].float().numpy()
    return {"context": values}


def _padded(documents: list[Document]) -> list[dict]:
    """Pad documents behind their tokens to one length, as a data set of tensors."""
    import torch

    width = max(len(d.input_ids) for d in documents)
    return [
        {
            "input_ids": torch.tensor(d.input_ids + [0] * (width - len(d.input_ids))),
            "labels": torch.tensor(d.labels + [IGNORED] * (width - len(d.labels))),
        }
        for d in documents
    ]


def _kronfluence_task(tracked: list[str]):
    """State the summed loss of response tokens, and which modules count, as kronfluence wants it."""
    from kronfluence.task import Task
    from torch.nn import functional

    class SummedResponseLoss(Task):
        """Training loss and measurement are the same sum."""

        def compute_train_loss(self, batch, model, sample=False):
            """Sum the losses of labelled tokens; padding lies behind them, so no mask is needed."""
            if sample:
                raise ValueError("SummedResponseLoss: sampled labels are not written; use the identity strategy")
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()
            return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")

        def compute_measurement(self, batch, model):
            """Sum the same losses."""
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            """Name the Linears inside the blocks."""
            return tracked

    return SummedResponseLoss()


TOOLS: dict[str, Callable[..., Values]] = {
    "ours": lambda *args: score_ours(*args, axes=("context",)),
    "ours-target": lambda *args: score_ours(*args, axes=("target",)),
    "ours-all": lambda *args: score_ours(*args, extra=True),
    "bergson": score_bergson,
    "bergson-output": lambda *args: score_bergson(*args, influence="output"),
    "kronfluence": score_kronfluence,
}


def status_bytes(field: str) -> int:
    """Read a memory figure of this process (`VmRSS` now, `VmHWM` the highest since the last reset)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(score: Callable[..., Values], task: Path, folder: Path, tokens: int) -> tuple[Values, dict[str, float]]:
    """Warm up on two documents, then time the training documents.

    Returns:
        (values; seconds, seconds of CPU over all threads, bytes held before the timed run, highest bytes above them).
    """
    score(task, "warm_up", folder / "warm_up", tokens)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, so that the peak of imports does not hide the run's
    held = status_bytes("VmRSS")
    began, began_cpu = time.perf_counter(), time.process_time()
    values = score(task, "train", folder / "run", tokens)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return values, {"seconds": seconds, "cpu_seconds": cpu_seconds, "held_bytes": held, "peak_bytes": status_bytes("VmHWM") - held}


def main() -> None:
    """Run one tool and write what it gave."""
    tool, task, folder, tokens = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    folder.mkdir(parents=True)
    values, report = measure(TOOLS[tool], task, folder, tokens)
    for axis, table in values.items():
        np.save(folder / f"{axis}.npy", table)
    package = tool.split("-")[0]
    version = "" if package == "ours" else importlib.metadata.version(package)
    (folder / "report.json").write_text(json.dumps({**report, "version": version, "torch": importlib.metadata.version("torch")}))


if __name__ == "__main__":
    main()
