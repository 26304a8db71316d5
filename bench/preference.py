"""Preference optimization with stored reference log-probabilities beside one with the reference model in memory: losses and peak memory.

Each case is a process of its own: a Llama with random weights takes a few steps of `PreferenceTrainer` on random pairs, once with the log-probabilities in
the batches, once with a forward pass of the reference in every step. Both begin from a policy that differs from the reference.

python -m bench.preference [--hidden 512] [--layers 8] [--steps 3]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

CASES = ("stored", "in memory")
VOCABULARY, LENGTH, PAIRS = 8000, 128, 4


def run(case: str, hidden: int, layers: int, steps: int) -> dict[str, Any]:
    """Train for some steps and measure: losses of the steps in nats, peak resident size in MB, parameters."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    from models.preference import reference_log_probs
    from models.preference_trainer import PreferenceTrainer
    from models.training_settings import PreferenceSettings

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=LENGTH,
        ))  # fmt: skip

    generator = np.random.default_rng(0)
    batches = []
    for _ in range(steps):
        input_ids = generator.integers(1, VOCABULARY, (2 * PAIRS, LENGTH))
        responses = np.where(np.arange(LENGTH) >= LENGTH // 3, input_ids, -100)
        labels = np.where(generator.random(input_ids.shape) < 0.7, responses, -100)
        batches.append({
            "input_ids": input_ids, "attention_mask": np.ones_like(input_ids), "labels": labels, "response_labels": responses,
            "num_supervised": int((labels[:, 1:] != -100).sum()), "num_pairs": PAIRS,
        })  # fmt: skip
    reference = model(1).eval().requires_grad_(False)
    for batch in batches:  # what a warehouse has: computed once, before, by any process
        batch["ref_log_probs"] = reference_log_probs(
            reference, *(torch.as_tensor(batch[name]) for name in ("input_ids", "attention_mask", "response_labels"))
        ).numpy()
    if case == "stored":
        del reference

    class WithReference(PreferenceTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            fresh = reference_log_probs(reference, *(inputs[name] for name in ("input_ids", "attention_mask", "response_labels")))
            return super().compute_loss(model, inputs | {"ref_log_probs": fresh}, *rest, **named)

    kind = PreferenceTrainer if case == "stored" else WithReference
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=steps, use_cpu=True, ignore_data_skip=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
            learning_rate=1e-4,
        )  # fmt: skip
        trainer = kind(
            model(0), args, lambda first: iter(batches[first:]), sum(b["num_supervised"] for b in batches), steps, PreferenceSettings()
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "losses": losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def main() -> None:
    """Run both cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    options = parser.parse_args()
    if options.case is not None:
        sys.stderr.write(json.dumps(run(options.case, options.hidden, options.layers, options.steps)))
        return
    found = {}
    for case in CASES:
        command = [sys.executable, "-m", "bench.preference", "--case", case]
        command += [f"--{name}={getattr(options, name)}" for name in ("hidden", "layers", "steps")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[case] = json.loads(done.stderr[done.stderr.index('{"losses"') :])
    print(f"{found['stored']['parameters'] / 1e6:.1f}M parameters, {found['stored']['parameters'] * 4 / 2**20:.0f} MB of weights\n")
    print("| reference log-probabilities | loss of each step | peak memory, MB |\n|---|---|---|")
    for case, row in found.items():
        print(f"| {case} | {', '.join(f'{loss:.6f}' for loss in row['losses'])} | {row['peak_mb']:,.0f} |")


if __name__ == "__main__":
    main()
