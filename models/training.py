"""A plain, seeded training loop on token sequences: warms the scoring model up, and pre-trains the demo's model."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import nn

from models.batches import TokenBatch, collate
from models.losses import counted, log_probabilities, model_inputs, token_losses
from models.settings import WarmupSettings

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(token ids, positions that count in the loss) of each sequence."""


def fit(
    model: nn.Module,
    sequences: Sequences,
    settings: WarmupSettings,
    progress: Callable[[int, int, float], None] | None = None,
    *,
    trainable: Collection[str] | None = None,
) -> nn.Module:
    """Train a model in place on the mean loss of the counted tokens of each batch, then freeze it.

    Each pass goes through a new permutation of the sequences. The run is a function of the model, the sequences in their order
    and the settings; the global random state is left alone.

    Args:
        model: the model, on its device.
        sequences: training sequences.
        settings: steps, batch size, learning rate, seed.
        progress: called with (steps done, all steps, loss of the batch).
        trainable: names of the parameters to train; all of them when absent.

    Returns:
        the same model, frozen, in eval mode (no dropout is used while training either).

    Raises:
        ValueError: there are no sequences.
    """
    if not sequences:
        raise ValueError("there are no sequences to train on")
    device = next(model.parameters()).device
    trained = [p for name, p in model.named_parameters() if trainable is None or name in trainable]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings.steps))
    for step, chosen in enumerate(batches_of_rows(len(sequences), settings)):
        batch = collate([sequences[i][0] for i in chosen], [sequences[i][1] for i in chosen]).to(device)
        loss = _step(model, batch, optimizer)
        schedule.step()
        if progress is not None:
            progress(step + 1, settings.steps, loss)
    return model.requires_grad_(False).eval()


def _step(model: nn.Module, batch: TokenBatch, optimizer: torch.optim.Optimizer) -> float:
    rows_N, positions_N = counted(batch)
    log_probs_NV = log_probabilities(model(**model_inputs(batch)).logits, rows_N, positions_N)
    loss = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N]).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_((p for group in optimizer.param_groups for p in group["params"]), 1.0)
    optimizer.step()
    return loss.item()


def batches_of_rows(num_rows: int, settings: WarmupSettings) -> Iterator[list[int]]:
    """Draw the rows of every step: each pass over the data is a new permutation.

    Args:
        num_rows: rows there are.
        settings: steps, batch size, seed; the global random state is left alone.

    Yields:
        row numbers of a batch, `settings.steps` times.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for _ in range(settings.steps):
        while len(order) < settings.batch_size:
            order += torch.randperm(num_rows, generator=generator).tolist()
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        yield chosen


def learning_rate_factor(step: int, steps: int) -> float:
    """Give the share of the peak learning rate at a step, counted from 0: a linear rise over a tenth of the steps, then half a cosine to a tenth."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
