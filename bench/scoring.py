"""Cost of valuing tokens in plain training steps: one process, one model, one batch, interleaved repeats, medians.

python -m bench.scoring [--lengths 256 512] [--hidden 384] [--layers 6] [--vocabulary 4000] [--tokens 4096] [--device cpu]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.batches import TokenBatch, collate
from models.losses import counted, log_probabilities, model_inputs, token_losses
from models.probe import ScaledDirections, probe, scale_directions


def build(args: argparse.Namespace, length: int) -> tuple[LlamaForCausalLM, TokenBatch, dict[str, dict[str, torch.Tensor]]]:
    """Make a Llama with random weights, a batch whose last two thirds are response, and two dense directions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=args.hidden * 8 // 3 // 8 * 8, num_hidden_layers=args.layers,
        num_attention_heads=max(1, args.hidden // 64), num_key_value_heads=max(1, args.hidden // 64), max_position_embeddings=length,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval().requires_grad_(False)
    rows = max(1, args.tokens // length)
    ids = torch.randint(0, args.vocabulary, (rows, length)).tolist()
    batch = collate(ids, [list(range(length // 3, length))] * rows).to(args.device)
    directions = {name: {n: torch.randn_like(p) for n, p in model.named_parameters()} for name in ("adapt", "stab")}
    return model, batch, directions


def training_step(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    """Run forward and backward with weight gradients, the loss on response tokens."""
    model.requires_grad_(True)
    rows, positions = counted(batch)
    log_probs = log_probabilities(model(**model_inputs(batch)).logits, rows, positions)
    token_losses(log_probs, batch.input_ids_BT[rows, positions]).mean().backward()
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def measure(cases: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Time all cases in turn, several times.

    Returns:
        median seconds per case; the first turn warms up and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512])
    for name, default in (("hidden", 384), ("layers", 6), ("vocabulary", 4000), ("tokens", 4096), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    print("| tokens per sequence | case | seconds | training steps |\n|---|---|---|---|")
    for length in args.lengths:
        model, batch, directions = build(args, length)
        scaled, none = scale_directions(model, directions), ScaledDirections({}, {})
        cases = {
            "training step": lambda model=model, batch=batch: training_step(model, batch),
            "signals alone": lambda model=model, batch=batch, none=none: probe(model, batch, none),
            "four components and signals": lambda model=model, batch=batch, scaled=scaled: probe(model, batch, scaled),
        }
        median = measure(cases, args.repeats, args.device)
        for name, seconds in median.items():
            print(f"| {length} | {name} | {seconds:.3f} | {seconds / median['training step']:.2f} |")


if __name__ == "__main__":
    main()
