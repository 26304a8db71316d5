"""TRL's DPOTrainer on an export of `alphatoken export --format trl-dpo`; docs/trl.md tells when to use what. Copy it: it needs torch and TRL 1.16 alone.

TRL has no door for a mask per token: its collator makes `completion_mask` of the lengths, and drops other columns. These two classes bring the masks
through, and the stored reference log-probabilities, so that no reference model is in memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

LOSSES = ("masked_margin", "token_weighted")


class MaskedPreferenceCollator(DataCollatorForPreference):
    """Collates exported rows.

    With `masked_margin` it takes every token that the mask leaves out away from `completion_mask`, and TRL's own loss does the rest. With
    `token_weighted` (Eq. 14) TRL's completion stays whole, and `token_weights` says what the gradient passes through.
    """

    def __init__(self, pad_token_id: int, loss: str = "token_weighted") -> None:
        super().__init__(pad_token_id=pad_token_id)
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}, expected one of {', '.join(LOSSES)}")
        self.loss = loss

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Add masks and reference log-probabilities to TRL's batch.

        Returns:
            TRL's batch, chosen responses in its first half.

        Raises:
            ValueError: the rows have soft weights, which a margin of kept tokens has no place for.
        """
        batch = super().torch_call(examples)
        width = batch["completion_mask"].shape[1]
        kept_BT = _rows(examples, "mask", width).long()
        responses_BT = _rows(examples, "response_mask", width).long()
        if self.loss == "masked_margin":
            if "chosen_weights" in examples[0]:
                raise ValueError(
                    "the rows have soft weights, and a masked margin takes none; use the loss token_weighted, or a policy without `soft`"
                )
            batch["completion_mask"] = kept_BT
        else:
            batch["completion_mask"] = responses_BT
            batch["token_weights"] = _rows(examples, "weights", width) if "chosen_weights" in examples[0] else kept_BT.float()
        if "chosen_ref_log_probs" in examples[0]:
            sums_B = (_rows(examples, "ref_log_probs", width) * batch["completion_mask"]).sum(-1)
            batch["ref_chosen_logps"], batch["ref_rejected_logps"] = sums_B.chunk(2)
        return batch


class MaskedDPOTrainer(DPOTrainer):
    """DPOTrainer on exported rows. With `precompute_ref_log_probs=True` it reads the reference log-probabilities from them.

    `token_weighted` takes β from the arguments and no other option of the loss. As everywhere in TRL a micro-batch's mean over pairs is averaged
    over accumulation and ranks: the mean over all pairs, where the micro-batches have equally many.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # tokenized already; TRL's own fails with KeyError 'chosen'

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        if "chosen_ref_log_probs" not in dataset.column_names:
            raise ValueError("the rows have no reference log-probabilities: value the data again, or set precompute_ref_log_probs=False")
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        names = ("mask", "response_mask", "weights", "ref_log_probs")
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*self._signature_columns, *(f"{branch}_{name}" for branch in ("chosen", "rejected") for name in names)]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if "token_weights" not in inputs:
            return super()._compute_loss(model, inputs, return_outputs)
        if self.loss_types != ["sigmoid"] or self.label_smoothing:
            raise ValueError(
                f"token_weighted goes with loss_type ['sigmoid'] without label smoothing, not {self.loss_types}, {self.label_smoothing}"
            )
        weights_BT = inputs["token_weights"]
        plain = {name: value for name, value in inputs.items() if name != "token_weights"}
        labels = plain["input_ids"].masked_fill(plain["completion_mask"] == 0, -100)
        tokens = {"input_ids": plain["input_ids"], "attention_mask": plain["attention_mask"], "use_cache": False}
        outputs = model(**tokens, labels=labels, fused_lm_head=True)
        log_probs_BT = outputs.log_probs
        reference = (
            (plain["ref_chosen_logps"], plain["ref_rejected_logps"])
            if self.precompute_ref_logps
            else self.compute_ref_log_probs(self.ref_model, plain)
        )
        chosen_P, rejected_P = log_probs_BT.detach().sum(-1).chunk(2)
        margins_P = self.beta * ((chosen_P - reference[0]) - (rejected_P - reference[1]))
        kept_P, kept_rejected_P = (log_probs_BT * weights_BT[:, 1:]).sum(-1).chunk(2)
        loss = -(self.beta * torch.sigmoid(-margins_P) * (kept_P - kept_rejected_P)).mean()
        self._metrics["train" if model.training else "eval"]["rewards/margins"].append(margins_P.mean().item())
        return (loss, outputs) if return_outputs else loss


def _rows(examples: Sequence[dict[str, Any]], name: str, width: int) -> Tensor:
    """Lay a column of the responses over the whole sequences: float32, [2P, T], 0 on prompts and padding."""
    values_BT = torch.zeros(2 * len(examples), width)
    for row, (branch, example) in enumerate((branch, example) for branch in ("chosen", "rejected") for example in examples):
        begin, values = len(example["prompt_ids"]), example[f"{branch}_{name}"]
        values_BT[row, begin : begin + len(values)] = torch.tensor(values)
    return values_BT
