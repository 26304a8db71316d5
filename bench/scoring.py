"""Cost of valuing tokens in plain training steps: one process, one model, one batch, interleaved repeats, medians.

python -m bench.scoring                                   # 13M parameters, 256 tokens per sequence, all modes, time and memory
python -m bench.scoring --sizes 0.7M 13M 60M --lengths 256 512 1024 2048 4096 --modes four-dense four-low
python -m bench.scoring --device cuda --dtype bfloat16 --sizes 0.5B 1.5B --lengths 2048 --tokens 8192
python -m bench.scoring --peers                           # beside bergson and kronfluence, each in an environment of its own
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.batches import TokenBatch, collate
from models.blocks import block_scope
from models.losses import counted, log_probabilities, model_inputs, token_losses
from models.lowrank import factorise
from models.probe import ScaledDirections, probe, scale_directions
from models.propagation import PropagationScorer
from models.settings import PropagationSettings

SIZES = {
    "0.7M": (128, 2, 8, 2048), "13M": (384, 6, 6, 4000), "60M": (640, 10, 10, 8000), "0.1B": (768, 12, 12, 32000),
    "0.5B": (1280, 20, 20, 50000), "1.5B": (2048, 24, 16, 50000),
}  # fmt: skip
"""Hidden size, layers, heads, vocabulary of a Llama with random weights."""

TRAINING = "training step"
MODES = {
    "signals": "loss and entropy alone",
    "causal-low": "causal pair, low rank",
    "causal-dense": "causal pair, dense",
    "direct-low": "direct pair, low rank",
    "direct-dense": "direct pair, dense",
    "four-low": "four components, low rank",
    "four-dense": "four components, dense",
    "four-checkpointed": "four components, dense, activation checkpointing",
    "propagation": "four components, `value_propagation`",
}
AXES = {"causal": ("context",), "direct": ("target",), "four": ("target", "context")}


def build(size: str, length: int, tokens: int, device: str, dtype: str) -> tuple[LlamaForCausalLM, TokenBatch]:
    """Make a Llama with random weights, and a batch whose last two thirds are response."""
    hidden, layers, heads, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 8 * 8, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=length,
    )  # fmt: skip
    with torch.device(device):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval().requires_grad_(False)
    rows = max(1, tokens // length)
    ids = torch.randint(0, vocabulary, (rows, length)).tolist()
    return model, collate(ids, [list(range(length // 3, length))] * rows).to(device)


def directions_of(model: LlamaForCausalLM, mode: str, rank: int) -> ScaledDirections:
    """Draw two directions, dense or as factors."""
    if mode in ("signals", TRAINING):
        return ScaledDirections({}, {})
    drawn = {name: {n: torch.randn_like(p) for n, p in model.named_parameters()} for name in ("adapt", "stab")}
    return scale_directions(model, {n: factorise(d, rank) for n, d in drawn.items()} if mode.endswith("low") else drawn)


def training_step(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    """Run forward and backward with weight gradients, the loss on response tokens."""
    model.requires_grad_(True)
    rows, positions = counted(batch)
    log_probs = log_probabilities(model(**model_inputs(batch)).logits, rows, positions)
    token_losses(log_probs, batch.input_ids_BT[rows, positions]).mean().backward()
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def case_of(mode: str, model: LlamaForCausalLM, batch: TokenBatch, rank: int) -> Callable[[], object]:
    """Prepare one mode; what the call does is what is timed."""
    if mode == TRAINING:
        return lambda: training_step(model, batch)
    if mode == "propagation":
        return _propagation(model, batch)
    scaled, checkpointing = directions_of(model, mode, rank), mode.endswith("checkpointed")
    axes = AXES.get(mode.partition("-")[0], ("target", "context"))
    return lambda: probe(model, batch, scaled, axes=axes, activation_checkpointing=checkpointing)


def _propagation(model: LlamaForCausalLM, batch: TokenBatch) -> Callable[[], object]:
    settings = PropagationSettings(last_blocks=min(PropagationSettings().last_blocks, model.config.num_hidden_layers))
    parameters = dict(model.named_parameters())
    scope = block_scope(model, settings.last_blocks, ())
    scorer = PropagationScorer(model, {name: {n: torch.randn_like(parameters[n]) for n in scope} for name in ("adapt", "stab")}, settings)
    responses = [row.nonzero().flatten().tolist() for row in batch.weights_BT]
    return lambda: scorer.score(batch.input_ids_BT.tolist(), responses)


def least(size: str, length: int, mode: str, rank: int) -> float | None:
    """Count the products that a mode of both directions cannot do without, in training steps.

    In products of a layer's matrix with all positions: a training step has three (forward, gradients of inputs and of weights); valuing has
    the first two, and per direction W ẋ (target axis) and D x (low rank: its two thin factors). Attention, in products of T × T × d: two
    forward and five backward in the fused kernel; its tangents take one for the weights and four per direction (models/attention.py).

    Returns:
        the count in training steps; None for a mode that is no such pass.
    """
    axes = AXES.get(mode.partition("-")[0])
    if axes is None or mode.endswith("checkpointed"):
        return None
    hidden, layers, _, vocabulary = SIZES[size]
    inner, responses = hidden * 8 // 3 // 8 * 8, 2 / 3
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner)] * 3
    body, head = layers * sum(a * b for a, b in shapes), hidden * vocabulary
    thin = rank * (layers * sum(a + b for a, b in shapes) + responses * (hidden + vocabulary))
    own = thin if mode.endswith("low") else body + responses * head
    attention = layers * hidden * length / 2
    backward, tangents = "context" in axes, "target" in axes
    matrices = (1 + backward) * (body + responses * head) + 2 * (own + tangents * body)
    kernels = attention * (2 + 5 * backward + 9 * tangents)
    return (matrices + kernels) / (3 * (body + head) + 7 * attention)


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


def peak_memory(args: argparse.Namespace, size: str, length: int, mode: str) -> float:
    """Run one mode twice in a process of its own.

    Returns:
        peak memory in MB: resident size on a CPU, allocated by torch on CUDA.
    """
    command = [sys.executable, "-m", "bench.scoring", "--measure-memory", mode, "--sizes", size, "--lengths", str(length)]
    same = ["--tokens", str(args.tokens), "--device", args.device, "--dtype", args.dtype, "--rank", str(args.rank)]
    return float(subprocess.run([*command, *same], capture_output=True, text=True, check=True).stdout.split()[-1])


def _report_memory(args: argparse.Namespace) -> None:
    model, batch = build(args.sizes[0], args.lengths[0], args.tokens, args.device, args.dtype)
    case = case_of(args.measure_memory, model, batch, args.rank)
    for _ in range(2):
        case()
    print(torch.cuda.max_memory_allocated() / 1e6 if args.device == "cuda" else _peak_resident_mb())


def _peak_resident_mb() -> float:
    """Read the peak of this process alone (the kernel's rusage starts with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["13M"], choices=list(SIZES))
    parser.add_argument("--lengths", type=int, nargs="+", default=[256])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no-memory", action="store_true", help="time alone")
    parser.add_argument("--peers", action="store_true", help="compare with other packages instead")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = _arguments()
    if args.measure_memory:
        _report_memory(args)
        return
    if args.peers:
        from bench import peers

        peers.main([])
        return
    print("| parameters | tokens per sequence | case | seconds | training steps | by count | peak memory, MB | of a training step's |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        for length in args.lengths:
            model, batch = build(size, length, args.tokens, args.device, args.dtype)
            cases = {mode: case_of(mode, model, batch, args.rank) for mode in (TRAINING, *args.modes)}
            median = measure(cases, args.repeats, args.device)
            del model, batch, cases
            peaks = {mode: None if args.no_memory else peak_memory(args, size, length, mode) for mode in median}
            for mode, seconds in median.items():
                peak, base = peaks[mode], peaks[TRAINING]
                memory = "| |" if peak is None or base is None else f"{peak:,.0f} | {peak / base:.2f} |"
                count = least(size, length, mode, args.rank)
                counted = "" if count is None else f"{count:.2f}"
                steps = seconds / median[TRAINING]
                print(f"| {size} | {length} | {MODES.get(mode, mode)} | {seconds:.3f} | {steps:.2f} | {counted} | {memory}", flush=True)


if __name__ == "__main__":
    main()
