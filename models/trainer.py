"""Fine-tuning on ready-made masked batches: Eq. 13 over the global batch, supervised tokens counted, resumed without replay."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments

from models.losses import IGNORED_LABEL, masked_loss_sum

Batch = Mapping[str, np.ndarray | int]
"""`input_ids`, `attention_mask` and `labels`, int64 [B, T], padded on the right, `weights`, float32 [B, T], where the mask has soft ones, and
`num_supervised`, what the store says of them."""

_SEEN = "SupervisedTokensSeen"
"""Key of the running count in the trainer's state, which is saved with every checkpoint."""


class SupervisedTokenMismatchError(RuntimeError):
    """The loss saw another number of supervised tokens than the store has: the model would learn from another mask."""


class MaskedTrainer(Trainer):  # type: ignore[misc]  # transformers ships without usable types
    """Trainer whose loss is Σ w ℓ / Σ w over the kept tokens of the **global** batch; Eq. 13, where the weights w are 1.

    The global batch spans gradient accumulation and (data-parallel) ranks, whatever `average_tokens_across_devices` says: no mean
    of means. A batch with nothing kept adds 0 to both sums; where that holds for a whole global batch the loss and its gradient
    are 0, and the optimizer takes a step on its momentum and weight decay alone.

    Micro-batch i is the i-th that a rank feeds to the model, counted over the whole run; every `batches_per_epoch` of them are an
    epoch. A resumed run starts at the micro-batch behind its checkpoint, so nothing is replayed. (The `epoch` in the trainer's
    own logs is not that: it is the share of `max_steps` done since the start or the resume.)

    Source: DESIGN 3.5, Eq. 13; reference test: tests/models/test_trainer.py::test_loss_and_gradient_are_eq_13_of_the_global_batch
    """

    loss_is_scaled_for_ga = True  # by the count of the global batch: training_step must not divide once more

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        batches: Callable[[int], Iterable[Batch]],
        expected_per_epoch: int,
        batches_per_epoch: int,
        first_batch: int = 0,
        **kwargs: Any,
    ) -> None:
        """Prepare a training.

        Args:
            model: a causal language model.
            args: with `max_steps`, and `ignore_data_skip=True`, since `batches` starts at the right place by itself.
            batches: gives this rank's micro-batches from number `first` on; it may be endless.
            expected_per_epoch: supervised tokens of one epoch over all ranks, as the store counts them.
            batches_per_epoch: micro-batches of one epoch of one rank, the same on all ranks.
            first_batch: number of the micro-batch that the run begins with, where it goes on behind an earlier one.
            **kwargs: further arguments of `transformers.Trainer`, such as `callbacks`.

        Raises:
            ValueError: an argument that this trainer cannot honour.
        """
        if args.max_steps < 1 or not args.ignore_data_skip or args.label_smoothing_factor != 0 or batches_per_epoch < 1:
            raise ValueError(
                f"MaskedTrainer: max_steps {args.max_steps} (at least 1), ignore_data_skip {args.ignore_data_skip} (True), "
                f"label_smoothing_factor {args.label_smoothing_factor} (0), batches_per_epoch {batches_per_epoch} (at least 1)"
            )
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = True  # older 5.x ask this instead of loss_is_scaled_for_ga
        self._batches = batches
        self._expected_per_epoch = expected_per_epoch
        self._batches_per_epoch = batches_per_epoch
        self._first_batch = first_batch

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor | int]]:
        """Hand the batches over as they are: neither collated nor sharded again.

        The loader has a generator of its own. Each iterator draws a seed, from the global generator unless there is another, and a
        resumed run draws once more than an uninterrupted one: dropout would differ from there on.

        Returns:
            a loader of micro-batches that starts behind the checkpoint.
        """
        return DataLoader(
            _MicroBatches(self._batches, self._micro_batch_range), batch_size=None, num_workers=0, generator=torch.Generator()
        )

    def _micro_batch_range(self) -> range:
        """Number the micro-batches that are still to come; the state is the checkpoint's when a run is resumed."""
        per_step = self.args.gradient_accumulation_steps
        return range(self._first_batch + self.state.global_step * per_step, self._first_batch + self.args.max_steps * per_step)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Take the micro-batches of one optimizer step.

        Returns:
            (micro-batches of this rank, each with the number of its supervised tokens over all ranks; what the loss of the global batch is
            divided by: scalar).
        """
        batches = list(islice(epoch_iterator, num_batches))
        counts = torch.tensor([_num_supervised(batch["labels"]) for batch in batches], dtype=torch.int64, device=device)
        counts = self.accelerator.reduce(counts, reduction="sum")
        for batch, count in zip(batches, counts.tolist(), strict=True):
            batch["num_supervised_all_ranks"] = count
        amount = torch.tensor([self._amount(batch) for batch in batches], device=device).sum()
        return batches, self.accelerator.reduce(amount, reduction="sum")

    def _amount(self, batch: Mapping[str, Any]) -> int | float:
        """Measure a micro-batch in the unit of the mean: supervised tokens, or their weights."""
        supervised_BT = batch["labels"][:, 1:] != IGNORED_LABEL
        return float(batch["weights"][:, 1:][supervised_BT].double().sum()) if "weights" in batch else int(supervised_BT.sum())

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """Compute a micro-batch's share of the global batch's loss, and count its tokens.

        Args:
            model: the model, perhaps wrapped.
            inputs: a micro-batch of `get_batch_samples`, on the device.
            return_outputs: also return the model's outputs.
            num_items_in_batch: what `get_batch_samples` gave for the global batch; that of this batch when absent.

        Returns:
            the share in nats, times the number of ranks, because data-parallel training averages gradients over ranks (and the
            log averages losses); with the outputs if asked for.
        """
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        loss_sum, num_supervised = self._loss_sum(outputs.logits, inputs)
        self._count(num_supervised, inputs)
        num_items = float(self._amount(inputs) if num_items_in_batch is None else num_items_in_batch)
        loss = loss_sum * (self.accelerator.num_processes / (num_items or 1.0))
        return (loss, outputs) if return_outputs else loss

    def _loss_sum(self, logits_BTV: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Add up the losses of a micro-batch.

        Args:
            logits_BTV: [B, T, V].
            batch: the micro-batch.

        Returns:
            (sum in nats, with its gradient; number of supervised tokens).
        """
        loss_sum, num_supervised = masked_loss_sum(logits_BTV, batch["labels"], batch.get("weights"))
        return loss_sum, int(num_supervised)

    def _count(self, num_supervised: int, batch: Mapping[str, Any]) -> None:
        """Compare what the loss saw with the store: each micro-batch on its rank, each epoch over all ranks.

        Args:
            num_supervised: tokens in the loss of this micro-batch.
            batch: the micro-batch, with its number and what is claimed of it.

        Raises:
            SupervisedTokenMismatchError: they differ.
        """
        epoch, number = divmod(batch["micro_batch"], self._batches_per_epoch)
        where = f"epoch {epoch}, batch {number} of {self._batches_per_epoch} (micro-batch {batch['micro_batch']}, rank {self.args.process_index})"
        if num_supervised != batch["num_supervised"]:
            raise SupervisedTokenMismatchError(
                f"{where}: the loss saw {num_supervised} supervised tokens, the store has {batch['num_supervised']}"
            )
        seen = self.state.stateful_callbacks.get(_SEEN, {}).get("attributes", {}).get("num_tokens", 0) + batch["num_supervised_all_ranks"]
        if number + 1 == self._batches_per_epoch:
            begun_here = self._first_batch <= epoch * self._batches_per_epoch  # else its first batches were an earlier run's
            if begun_here and seen != self._expected_per_epoch:
                raise SupervisedTokenMismatchError(
                    f"end of {where}: the loss saw {seen} supervised tokens in this epoch over all ranks, the store has {self._expected_per_epoch}"
                )
            seen = 0
        self.state.stateful_callbacks[_SEEN] = {"args": {}, "attributes": {"num_tokens": seen}}


class _MicroBatches(IterableDataset[dict[str, Tensor | int]]):
    """The micro-batches that a run still needs, each with its number, as tensors."""

    def __init__(self, batches: Callable[[int], Iterable[Batch]], to_come: Callable[[], range]) -> None:
        super().__init__()
        self._batches = batches
        self._to_come = to_come

    def __iter__(self) -> Iterator[dict[str, Tensor | int]]:
        """Start behind the checkpoint.

        Yields:
            micro-batches.

        Raises:
            ValueError: there are too few.
        """
        numbers = self._to_come()
        if not numbers:
            return
        number = numbers.start - 1
        for number, batch in zip(numbers, self._batches(numbers.start), strict=False):
            tensors = {name: torch.as_tensor(value) if isinstance(value, np.ndarray) else int(value) for name, value in batch.items()}
            yield {**tensors, "micro_batch": number}
        if number + 1 < numbers.stop:
            raise ValueError(
                f"the batches ended after micro-batch {number}, max_steps needs {numbers.stop}; give more epochs of them or lower max_steps"
            )


def _num_supervised(labels_BT: Tensor) -> int:
    """Count the labels that the loss uses (the first of a sequence has no predictor)."""
    return int((labels_BT[:, 1:] != IGNORED_LABEL).sum())


def with_lora(
    model: nn.Module, r: int, alpha: float, dropout: float, target_modules: str | Sequence[str] = "all-linear", *, seed: int = 0
) -> nn.Module:
    """Put low-rank adapters on a model and freeze the rest.

    Args:
        model: a causal language model; changed in place.
        r: rank of the adapters.
        alpha: scale; the update of a weight is alpha / r · B A.
        dropout: dropout on the input of the adapters, from 0 to 1.
        target_modules: names of the layers to adapt, or `all-linear`.
        seed: seed of A's random start (B starts at 0); the global random state is left alone.

    Returns:
        the model with adapters, which alone require gradients.

    Raises:
        ImportError: peft is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model  # optional
    except ImportError as error:
        raise ImportError("LoRA needs the package peft, which is not installed: pip install 'alphatoken[peft]'") from error
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted: nn.Module = get_peft_model(model, config)
    return adapted


def save_final(trainer_or_model: Trainer | nn.Module, tokenizer: Any, folder: Path) -> None:
    """Save the trained model so that `AutoModelForCausalLM.from_pretrained(folder)` loads it.

    The folder is complete or absent: it is written beside its place and renamed. An older folder of that name is replaced. LoRA
    adapters are merged into the weights, in place: do this last. Of several ranks the first one writes and the others wait. Not
    for models whose weights are sharded over ranks (FSDP).

    Args:
        trainer_or_model: the trainer, or its model.
        tokenizer: saved beside the weights; None leaves it out.
        folder: where to.
    """
    trainer = trainer_or_model if isinstance(trainer_or_model, Trainer) else None
    model: Any = trainer_or_model if trainer is None else trainer.accelerator.unwrap_model(trainer.model)
    if trainer is None or trainer.args.should_save:
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        model.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    if trainer is not None:
        trainer.accelerator.wait_for_everyone()
