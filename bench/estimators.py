"""How far other estimates rank tokens as the exact target axis over all parameters does: two pre-trained models, GSM8K rows.

python -m bench.estimators [--models stories260K TinyStories-656K] [--rows 1000] [--scored 100] [--steps 150]

Models and data lie in ../shared/real, or where the environment variable ALPHATOKEN_REAL says; what is absent is skipped. Each model is
warmed up on the first rows of the training set, values are those of `--scored` of them. Prints a Markdown table of Spearman correlations.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.batches import TokenBatch, collate, plan_batches
from models.blocks import block_scope, last_blocks
from models.chat import TokenizeSettings, tokenize_examples
from models.directions import diagonal_fisher, fisher_drift, sample_sequences, validation_gradient
from models.losses import counted
from models.lowrank import Direction
from models.probe import probe, scale_directions
from models.propagation import propagate
from models.reference import float32_parameters, load_model, load_tokenizer, resolve_device
from models.settings import FisherSettings, PropagationSettings, WarmupSettings
from models.token_fisher import continue_prompts, token_fisher
from models.training import fit

Sequence_ = tuple[list[int], list[int]]
"""(token ids, response positions)."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories260K", "TinyStories-656K"])
    for name, default, meaning in (
        ("rows", 1000, "training rows for warm-up and prompts"), ("scored", 100, "rows whose tokens are compared"), ("steps", 150, "steps of warm-up"),
        ("validation", 32, "rows that make the adaptation direction"), ("window", 32, "W"), ("last-blocks", 3, "K; all blocks, where there are fewer"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    args = parser.parse_args()
    root = Path(os.environ.get("ALPHATOKEN_REAL", Path(__file__).parents[2] / "shared" / "real"))
    if not (root / "data" / "gsm8k_train.jsonl").is_file():
        print(f"Skipped: {root} holds no data/gsm8k_train.jsonl; set ALPHATOKEN_REAL to a folder that does.")
        return
    print("| model | estimate | adapt: all tokens | adapt: within a response | stab: all tokens | stab: within a response |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        folder = root / "models" / name
        if not folder.is_dir():
            print(f"Skipped: there is no {folder}.")
            continue
        study(name, folder, root / "data", args)


def study(name: str, folder: Path, data: Path, args: argparse.Namespace) -> None:
    """Print the rows of one model."""
    train = encoded(folder, data / "gsm8k_train.jsonl", args.rows)
    validation = encoded(folder, data / "gsm8k_test.jsonl", args.validation)
    reference = load_model(folder, resolve_device("cpu"))
    warmup = WarmupSettings(steps=args.steps, batch_size=16, learning_rate=1e-3)
    model = fit(copy.deepcopy(reference), train, warmup).requires_grad_(False).eval()
    scored = batches_of(train[: args.scored])
    number = min(args.last_blocks, model.config.num_hidden_layers)
    settings = PropagationSettings(last_blocks=number, window=args.window)
    exact = exact_directions(model, reference, batches_of(validation))
    rows = exact_rows(model, scored, exact, settings.last_blocks)
    truth = rows.pop("all parameters")
    paper = paper_directions(model, reference, train, batches_of(validation), settings)
    rows = propagation_rows(model, scored, paper, settings) | rows
    for estimate, axes in rows.items():
        cells = [f"{mean:.3f}" for key in ("adapt", "stab") for mean in (spearman(axes[key], truth[key]), within(axes[key], truth[key]))]
        print(f"| {name} | {estimate} | {' | '.join(cells)} |", flush=True)


def encoded(folder: Path, file: Path, limit: int) -> list[Sequence_]:
    """Tokenize the first rows of GSM8K that fit the models."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(limit), strict=False)]
    examples = [{"prompt": row["question"], "response": row["answer"]} for row in rows]
    outcomes = tokenize_examples(examples, load_tokenizer(folder), TokenizeSettings(separator="\n", max_length=512))
    return [(list(one.token_ids), list(one.response_positions)) for one in outcomes if hasattr(one, "token_ids")]


def batches_of(sequences: Sequence[Sequence_], batch_tokens: int = 4096) -> list[TokenBatch]:
    """Batch sequences."""
    plan = plan_batches([(f"{i:06d}", len(ids)) for i, (ids, _) in enumerate(sequences)], batch_tokens)
    return [collate([sequences[int(i)][0] for i in batch], [sequences[int(i)][1] for i in batch]) for batch in plan]


def exact_directions(model: nn.Module, reference: nn.Module, validation: list[TokenBatch]) -> dict[str, Direction]:
    """Make D_A and D_S as the default estimator does, over all parameters."""
    scope = [name for name, _ in model.named_parameters()]
    fisher = diagonal_fisher(reference, sample_sequences(reference, FisherSettings()), scope)
    drift = fisher_drift(fisher, float32_parameters(model), float32_parameters(reference))
    return {"adapt": validation_gradient(model, validation, scope)[0], "stab": drift}


def paper_directions(
    model: nn.Module, reference: nn.Module, train: list[Sequence_], validation: list[TokenBatch], settings: PropagationSettings
) -> dict[str, Direction]:
    """Make G and V of the last blocks."""
    scope = block_scope(model, settings.last_blocks, ())
    prompts = [ids[: positions[0]] for ids, positions in train[: settings.fisher_sequences]]
    texts = continue_prompts(reference, prompts, settings)
    fisher = token_fisher(reference, texts, scope, settings.last_blocks)
    drift = fisher_drift(fisher, float32_parameters(model), float32_parameters(reference))
    return {"adapt": validation_gradient(model, validation, scope)[0], "stab": drift}


Axes = dict[str, list[Tensor]]
"""Per direction the values of the counted tokens of each sequence."""


def collect(scored: list[TokenBatch], values: Callable[[TokenBatch], dict[str, dict[str, Tensor]]]) -> dict[str, Axes]:
    """Run a pass over all batches and cut its matrices to the counted tokens.

    Returns:
        per estimate and direction, the values of each sequence.
    """
    found: dict[str, Axes] = {}
    for batch in scored:
        rows_N, positions_N = counted(batch)
        for estimate, axes in values(batch).items():
            for direction, values_BT in axes.items():
                kept = found.setdefault(estimate, {}).setdefault(direction, [])
                kept += [values_BT[row, positions_N[rows_N == row]].double() for row in range(len(values_BT))]
    return found


def exact_rows(model: nn.Module, scored: list[TokenBatch], directions: dict[str, Direction], number: int) -> dict[str, Axes]:
    """Score exactly over all parameters, and over the linear layers of the last blocks alone."""
    scopes = {"all parameters": list(directions["adapt"])}
    for k in range(1, number + 1):
        scopes[f"exact target axis, linear layers of the last {k} of {model.config.num_hidden_layers} blocks"] = block_scope(model, k, ())
    rows: dict[str, Axes] = {}
    for name, scope in scopes.items():
        cut = scale_directions(model, {key: {n: d[n] for n in scope} for key, d in directions.items()})

        def values(batch: TokenBatch, name: str = name, cut: object = cut) -> dict[str, dict[str, Tensor]]:
            result = probe(model, batch, cut)
            context = {"exact context axis, all parameters": result.context_BT} if name == "all parameters" else {}
            return {name: result.target_BT, **context}

        rows |= collect(scored, values)
    return rows


def propagation_rows(
    model: nn.Module, scored: list[TokenBatch], directions: dict[str, Direction], settings: PropagationSettings
) -> dict[str, Axes]:
    """Score with the paper's form."""
    blocks, scaled = last_blocks(model, settings.last_blocks), scale_directions(model, directions)
    label = f"(last {settings.last_blocks} of {model.config.num_hidden_layers} blocks)"

    def values(batch: TokenBatch) -> dict[str, dict[str, Tensor]]:
        result = propagate(model, batch, scaled, blocks, settings.window)
        both = {name: result.direct_BT[name] + result.causal_BT[name] for name in result.direct_BT}
        names = ("direct", "causal", "direct + causal")
        axes = (result.direct_BT, result.causal_BT, both)
        rows = {f"`value_propagation` {n} {label}": axis for n, axis in zip(names, axes, strict=True)}
        return rows | {f"exact target axis with its directions G and V {label}": probe(model, batch, scaled).target_BT}

    return collect(scored, values)


def ranks(values: Tensor) -> Tensor:
    """Rank, ties at their average."""
    distinct, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse] if len(distinct) else values


def correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation; NaN where one side is constant."""
    pair = torch.stack([ranks(one), ranks(other)])
    return torch.corrcoef(pair)[0, 1].item()


def spearman(one: list[Tensor], other: list[Tensor]) -> float:
    """Correlate over all tokens."""
    return correlation(torch.cat(one), torch.cat(other))


def within(one: list[Tensor], other: list[Tensor]) -> float:
    """Correlate within each response, and average over responses of at least three tokens."""
    each = torch.tensor([correlation(a, b) for a, b in zip(one, other, strict=True) if len(a) > 2])
    return each.nanmean().item()


if __name__ == "__main__":
    main()
