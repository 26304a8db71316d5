"""Settings of training. No torch here: the command line reads this without loading it."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters instead of full fine-tuning (needs the `peft` extra).

    Attributes:
        rank: rank of the adapters.
        alpha: scale; the update is alpha / rank times B A.
        dropout: dropout on the adapters' input.
        target_modules: names of the layers to adapt, `all-linear` for all.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"lora: rank {self.rank} (at least 1), dropout {self.dropout} (in [0, 1))")


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """Preference optimization, where the training data are pairs of a chosen and a rejected response.

    Attributes:
        beta: β of DPO: how much a log-ratio counts. A pair's weight is ω = β σ(−s) at the scoring model (DESIGN 3.5).
        loss: `token_weighted` (Eq. 14: ω from the full margin, the gradient from kept tokens), `dpo` (all tokens; needs a mask that keeps
            them, such as `full`), or `masked_margin` (the margin itself is that of the kept tokens, TRL's form).
        label_smoothing: assumed share ε of pairs whose labels are swapped, in [0, 0.5): −(1 − ε) log σ(s) − ε log σ(−s), so ω = β (σ(−s) − ε).
        length_normalization: divide each branch's sums by its number of response tokens that have a loss, kept or not. It and label_smoothing
            belong to the training loss alone: values, and ω in the views, are those of plain DPO.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    beta: float = 0.1
    loss: Literal["token_weighted", "dpo", "masked_margin"] = "token_weighted"
    label_smoothing: float = 0.0
    length_normalization: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf or not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"preference: beta {self.beta} (positive, finite), label_smoothing {self.label_smoothing} (in [0, 0.5))")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Training on a mask.

    Attributes:
        policy: whose mask; `full` trains on every response token.
        start: weights to start from: the reference, or the scoring model.
        epochs: passes over the data; ignored when max_steps is given.
        max_steps: optimizer steps.
        batch_size: sequences, or pairs, per device and step of accumulation.
        skip_batches: batches of the stream passed over before the first one: a training that goes on behind another leaves out what that one saw.
        bucket_window: sequences, or pairs, in shuffled order, among which those of like length share batches; 0 = none: batches of any lengths.
        gradient_accumulation: batches per optimizer step; the loss is a mean over the kept tokens, or the pairs, of all of them.
        learning_rate: peak learning rate of AdamW.
        schedule: learning-rate schedule, a name that transformers knows.
        warmup_steps: steps of linear rise.
        weight_decay: AdamW's weight decay.
        dtype: float32 or bfloat16 mixed precision.
        seed: seed of order, dropout and adapters.
        save_steps: a checkpoint every so many steps, from which a killed run goes on.
        output: folder of checkpoints; relative to the configuration file.
        lora: train adapters instead of all weights.
        report_to: trackers of transformers to report to; nothing by default.
        evaluation_limit: sequences, or pairs, measured at most, of the evaluation set and of the retention text each.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    policy: str = "default"
    start: Literal["reference", "scoring"] = "reference"
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    skip_batches: int = 0
    bucket_window: int = 0
    gradient_accumulation: int = 1
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    save_steps: int = 200
    output: str = "runs"
    lora: LoraSettings | None = None
    report_to: tuple[str, ...] = ()
    evaluation_limit: int = 300

    def __post_init__(self) -> None:
        positive = {"batch_size": self.batch_size, "gradient_accumulation": self.gradient_accumulation, "save_steps": self.save_steps}
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"training.{name} is {value}; it must be at least 1")
        for name, value in {"bucket_window": self.bucket_window, "skip_batches": self.skip_batches}.items():
            if value < 0:
                raise ValueError(f"training.{name} is {value}; it must be at least 0")
        rates = (self.epochs, self.learning_rate)
        if not all(0 < rate < math.inf for rate in rates) or (self.max_steps is not None and self.max_steps < 1):
            raise ValueError(
                f"training: epochs {self.epochs}, max_steps {self.max_steps}, learning_rate {self.learning_rate}; all must be positive and finite"
            )
