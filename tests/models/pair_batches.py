"""Pairs of random sequences, and the batches that the stream would make of them."""

import numpy as np
import torch

VOCABULARY = 31


def make_pairs(num_pairs, seed=0, *, share=0.6, soft=False, empty=()):
    """Pairs {chosen, rejected} to (ids, response positions, weights); those numbered in `empty` keep nothing."""
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(num_pairs):
        prompt = generator.integers(1, VOCABULARY, int(generator.integers(0, 4))).tolist()  # sometimes none: position 0 is a response token
        pair = {}
        for name in ("chosen", "rejected"):
            ids = prompt + generator.integers(1, VOCABULARY, int(generator.integers(2, 9))).tolist()
            positions = list(range(len(prompt), len(ids)))
            kept = [number not in empty and bool(generator.random() < share) for _ in positions]
            weights = [float(np.float32(generator.random() * 0.9 + 0.1)) if soft else 1.0 for _ in positions]
            pair[name] = (ids, positions, [w * k for w, k in zip(weights, kept, strict=True)])
        pairs.append(pair)
    return pairs


def batch_of(pairs, ref_log_probs, *, soft=False):
    """The arrays of a batch; `ref_log_probs(ids)` gives a number per token of a sequence (ignored at position 0)."""
    rows = [pair[name] for name in ("chosen", "rejected") for pair in pairs]
    shape = (len(rows), max(len(ids) for ids, _, _ in rows))
    arrays = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask")}
    arrays |= {name: np.full(shape, -100, np.int64) for name in ("labels", "response_labels")}
    arrays |= {name: np.zeros(shape, np.float32) for name in ("ref_log_probs", "weights")}
    for row, (ids, positions, weights) in enumerate(rows):
        arrays["input_ids"][row, : len(ids)], arrays["attention_mask"][row, : len(ids)] = ids, 1
        ref = ref_log_probs(ids)
        for u, weight in zip(positions, weights, strict=True):
            if weight > 0:
                arrays["labels"][row, u], arrays["weights"][row, u] = ids[u], weight
            if u > 0:
                arrays["response_labels"][row, u], arrays["ref_log_probs"][row, u] = ids[u], ref[u]
    if not soft:
        del arrays["weights"]
    return arrays | {"num_supervised": int((arrays["labels"][:, 1:] != -100).sum()), "num_pairs": len(pairs)}


def reference_of(model):
    """Log-probabilities of a sequence's tokens by a fresh forward pass."""

    @torch.no_grad()
    def of(ids):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return [0.0] + [torch.log_softmax(logits[u - 1], -1)[ids[u]].item() for u in range(1, len(ids))]

    return of


def filler():
    """What a rank gets where there are too few pairs."""
    zeros = np.zeros((2, 1), np.int64)
    nothing = {"labels": zeros - 100, "response_labels": zeros - 100, "ref_log_probs": zeros.astype(np.float32)}
    return {"input_ids": zeros, "attention_mask": zeros + 1, **nothing, "num_supervised": 0, "num_pairs": 0}
