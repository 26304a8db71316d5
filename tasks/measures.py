"""What a training is measured by: loss on the evaluation set or margins of held-out pairs, and loss on the retention text."""

from typing import TYPE_CHECKING, Any

from tasks.runs import Run
from tasks.training_plan import Sequence, TrainingPlan

if TYPE_CHECKING:
    from torch import Tensor

    from models.batches import TokenBatch


class Measure:
    """Measures a model: `target_loss` on plain responses, `margin_accuracy`, `dpo_loss` and `margin` on pairs, and `retention_loss`.

    Of pairs the reference model's log-probabilities are needed, one number per response: `set_reference` computes them once, and the
    reference can go.
    """

    def __init__(self, run: Run, plan: TrainingPlan, tokenizer: Any) -> None:
        budget = run.config.scoring.batch_tokens
        self._preference = run.config.preference
        self._pairs = _Responses(plan.evaluation, budget) if plan.evaluation and plan.evaluates_pairs else None
        self._target = [] if plan.evaluates_pairs else _batches(plan.evaluation, budget)[0]
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        encoded = tokenizer(plan.retention, add_special_tokens=False, verbose=False)["input_ids"] if plan.retention else []
        texts = [(start + ids)[: plan.max_length] for ids in encoded]
        self._retention = _batches([(ids, list(range(1, len(ids)))) for ids in texts if len(ids) > 1], budget)[0]
        self._reference_2P: Tensor | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether `set_reference` must come before the first measuring."""
        return self._pairs is not None and self._reference_2P is None

    def set_reference(self, reference: Any) -> None:
        """Compute what margins of held-out pairs are measured against."""
        if self._pairs is not None:
            self._reference_2P = self._pairs.log_probs(reference)

    def __call__(self, model: Any) -> dict[str, float]:
        """Measure a model.

        Returns:
            value of each metric; nats per token for the losses of tokens, nats per pair for `dpo_loss`.
        """
        from models.losses import mean_token_loss

        measured = {}
        if self._target:
            measured["target_loss"] = mean_token_loss(model, self._target)[0]
        if self._pairs is not None:
            measured |= self._margins(self._pairs, model)
        if self._retention:
            measured["retention_loss"] = mean_token_loss(model, self._retention)[0]
        return measured

    def _margins(self, pairs: "_Responses", model: Any) -> dict[str, float]:
        """Measure s over all response tokens, as the losses define it, and −log σ(s) without smoothing."""
        from models.preference import smoothed_dpo_losses

        assert self._reference_2P is not None, "set_reference comes first"
        ratios_2P = pairs.log_probs(model) - self._reference_2P
        if self._preference.length_normalization:
            ratios_2P = ratios_2P / pairs.num_tokens_2P
        margins_P = self._preference.beta * (ratios_2P[0] - ratios_2P[1])
        return {
            "margin_accuracy": (margins_P > 0).double().mean().item(),
            "dpo_loss": smoothed_dpo_losses(margins_P).mean().item(),
            "margin": margins_P.mean().item(),
        }


class _Responses:
    """The responses of held-out pairs in batches.

    Attributes:
        num_tokens_2P: float64, [2, P]; response tokens with a loss, at least 1, of the chosen and of the rejected responses.
    """

    def __init__(self, sequences: list[Sequence], budget: int) -> None:
        import torch

        self._batches, self._places = _batches(sequences, budget)
        numbers = torch.tensor([max(1, sum(position > 0 for position in positions)) for _, positions in sequences], dtype=torch.float64)
        self.num_tokens_2P = numbers.reshape(-1, 2).T

    def log_probs(self, model: Any) -> "Tensor":
        """Sum the log-probabilities of each response: float64, [2, P], nats."""
        import torch

        from models.preference import response_log_probs

        sums_N = torch.cat([response_log_probs(model, batch) for batch in self._batches])
        return torch.empty_like(sums_N).index_copy_(0, torch.tensor(self._places), sums_N).reshape(-1, 2).T


def _batches(sequences: list[Sequence], budget: int) -> "tuple[list[TokenBatch], list[int]]":
    """Put sequences of like lengths into batches.

    Returns:
        (batches, which sequence each of their rows is).
    """
    from models.batches import collate, plan_batches

    plan = [[int(i) for i in batch] for batch in plan_batches([(f"{i:09d}", len(ids)) for i, (ids, _) in enumerate(sequences)], budget)]
    chosen = [[sequences[i] for i in batch] for batch in plan]
    return [collate([ids for ids, _ in batch], [positions for _, positions in batch]) for batch in chosen], [
        i for batch in plan for i in batch
    ]
