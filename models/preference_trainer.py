"""Preference optimization on ready-made batches of pairs; the reference model's log-probabilities come with them, the model itself is not here."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from models.preference import PairLosses, Pairs, pair_losses, smoothed_dpo_losses
from models.trainer import Batch, MaskedTrainer
from models.training_settings import PreferenceSettings

_SUMS = "PreferenceSums"
"""Key of the running sums behind the log, in the trainer's state, which is saved with every checkpoint."""

PAIR_MEANS = ("margin", "accuracy", "dpo_loss", "chosen_log_prob", "rejected_log_prob")
"""What the log has of pairs: means of s, of s > 0, of −log σ(s), and of the responses' log-probabilities (nats per response)."""

TOKEN_SHARES = ("chosen_kept_share", "rejected_kept_share")
"""What the log has of tokens: the share that the mask keeps, of all response tokens of a branch with a loss."""


class PreferenceTrainer(MaskedTrainer):
    """Trainer whose loss is the mean over the pairs of the **global** batch of one of the losses of `models/preference.py`.

    Everything else is as in `MaskedTrainer`. A micro-batch also has `response_labels`, `ref_log_probs` and `num_pairs`, see
    `Pairs`. The log of a step has `PAIR_MEANS` and `TOKEN_SHARES` over all pairs of all ranks since the log before, also where the run was resumed
    between the two.

    Source: DESIGN 3.5, Eq. 14; reference test: tests/models/test_preference_trainer.py
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        batches: Callable[[int], Iterable[Batch]],
        expected_per_epoch: int,
        batches_per_epoch: int,
        preference: PreferenceSettings,
        **kwargs: Any,
    ) -> None:
        """Prepare a training; the arguments are those of `MaskedTrainer`, and the form of the loss."""
        super().__init__(model, args, batches, expected_per_epoch, batches_per_epoch, **kwargs)
        self._preference = preference

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was summed up since the last log."""
        sums = self.state.stateful_callbacks.pop(_SUMS, {}).get("attributes", {}).get("sums")
        if sums is not None:
            num_pairs, tokens = sums[0], sums[1 + len(PAIR_MEANS) :]
            logs |= {name: value / max(num_pairs, 1) for name, value in zip(PAIR_MEANS, sums[1:], strict=False)}
            logs |= {name: kept / max(total, 1) for name, kept, total in zip(TOKEN_SHARES, tokens[:2], tokens[2:], strict=True)}
        super().log(logs, start_time)

    def _amount(self, batch: Mapping[str, Any]) -> int:
        return int(batch["num_pairs"])

    def _loss_sum(self, logits_BTV: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        losses = pair_losses(logits_BTV, Pairs.of(batch), self._preference)
        self._add_up(losses)
        return losses.losses_P.sum(), int(losses.num_kept_2P.sum())

    def _add_up(self, losses: PairLosses) -> None:
        """Add the sums of a micro-batch over all ranks to those since the last log."""
        margins_P = losses.margins_P
        pairs = (margins_P, margins_P > 0, smoothed_dpo_losses(margins_P), *losses.log_probs_2P)
        tokens = (*losses.num_kept_2P, *losses.num_response_2P)
        found = torch.stack([values.sum().float() for values in (torch.ones_like(margins_P), *pairs, *tokens)])
        found = self.accelerator.reduce(found, reduction="sum").tolist()
        before = self.state.stateful_callbacks.get(_SUMS, {}).get("attributes", {}).get("sums", [0.0] * len(found))
        sums = [one + other for one, other in zip(before, found, strict=True)]
        self.state.stateful_callbacks[_SUMS] = {"args": {}, "attributes": {"sums": sums}}
