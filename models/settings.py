"""Settings of the numerics, and the versions of their code. No torch here: the command line reads this without loading it."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from models.training_settings import LoraSettings

CODE_VERSIONS = {"train": 1, "preference": 1, "fisher": 2, "directions": 2, "probe": 2, "low_rank": 1, "token_fisher": 1, "propagation": 1}
"""Bumped by hand when the same inputs give other numbers; part of every identity."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The reference model: the pre-trained weights θ_ref that stability protects and training starts from.

    Attributes:
        reference: folder of a model saved with `save_pretrained`, or a hub name.
        scoring: folder or hub name of the scoring model θ, or of LoRA adapters on the reference; None = warm one up from the reference.
        revision: revision of a hub name.
        device: `auto` takes CUDA when present.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reference: str
    scoring: str | None = None
    revision: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class WarmupSettings:
    """A short full-token fine-tune of the reference: makes the scoring model θ, and the drift that stability needs.

    Attributes:
        steps: optimizer steps; 0 scores at the reference itself, where stability is zero.
        batch_size: sequences per step.
        learning_rate: peak of AdamW's schedule (linear warm-up over a tenth of the steps, cosine to a tenth of the peak).
        seed: seed of the order of sequences, and of the adapters.
        lora: train adapters on the frozen reference instead of all weights; directions and values then are over the adapter weights
            alone. Without dropout.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steps: int = 100
    batch_size: int = 16
    learning_rate: float = 5e-4
    seed: int = 0
    lora: LoraSettings | None = None

    def __post_init__(self) -> None:
        if self.lora is not None and (self.lora.dropout != 0 or self.steps == 0):
            raise ValueError(
                f"scoring.warmup.lora: dropout {self.lora.dropout} (must be 0: the warm-up trains without dropout), "
                f"scoring.warmup.steps {self.steps} (at least 1: adapters that were not trained leave nothing to score at)"
            )
        if self.steps < 0 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"scoring.warmup: steps {self.steps} (at least 0), batch_size {self.batch_size} (at least 1), "
                f"learning_rate {self.learning_rate} (above 0)"
            )


@dataclass(frozen=True, kw_only=True)
class FisherSettings:
    """Texts for the stability direction, and for the diagonal Fisher of the reference where that is asked for (DESIGN 3.1).

    Attributes:
        source: `self`, texts that the reference samples from its start token; `prompts`, its continuations of prompts of the training data,
            drawn once and then pinned; `retention`, the alignment half of data.retention as it stands, nothing sampled.
        num_sequences: texts; fewer where the source has fewer.
        num_tokens: tokens sampled per text at most; a text ends early at its end-of-text token. Without effect on `retention`.
        seed: seed of the sampling and of the choice of prompts.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    source: Literal["self", "prompts", "retention"] = "self"
    num_sequences: int = 256
    num_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_sequences < 1 or self.num_tokens < 1:
            raise ValueError(
                f"scoring.fisher: num_sequences {self.num_sequences} and num_tokens {self.num_tokens}; both must be at least 1"
            )


class Paper:
    """What arXiv 2606.01635 uses in its released form, and where the quantity stands there. λ and ρ are in warehouse/policy_settings.py."""

    LAST_BLOCKS = 3  # K, Eq. 8 and 9
    WINDOW = 32  # W, Eq. 9
    FISHER_SEQUENCES = 1000  # mean of Eq. 10
    FISHER_PROMPT_TOKENS = 256  # text of Eq. 10
    FISHER_SAMPLED_TOKENS = 128  # text of Eq. 10
    VALIDATION_EXAMPLES = 32  # mean of Eq. 7; here data.validation as it is given


@dataclass(frozen=True, kw_only=True)
class PropagationSettings:
    """The estimator `value_propagation`, the paper's released form (DESIGN 3.3); without effect on `exact`.

    Attributes:
        last_blocks: K, the blocks at the model's end whose linear layers count; refused where the model has fewer.
        window: W, the later positions that a causal value reaches.
        fisher_sequences: training prompts that the reference continues for its Fisher, drawn once and then pinned; all, where there are fewer.
        fisher_prompt_tokens: tokens kept of such a prompt, its last ones.
        fisher_sampled_tokens: tokens sampled after it at most; a text ends early at its end-of-text token.
        seed: seed of the sampling.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    last_blocks: int = Paper.LAST_BLOCKS
    window: int = Paper.WINDOW
    fisher_sequences: int = Paper.FISHER_SEQUENCES
    fisher_prompt_tokens: int = Paper.FISHER_PROMPT_TOKENS
    fisher_sampled_tokens: int = Paper.FISHER_SAMPLED_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("last_blocks", "window", "fisher_sequences", "fisher_prompt_tokens", "fisher_sampled_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"scoring.propagation.{name} is {getattr(self, name)}; it must be at least 1")


Scaling = Literal["none", "tensor_norm"]


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """The adaptation direction D_A, the gradient of the validation loss.

    Attributes:
        scope_exclude: patterns of parameter names that it leaves out, beside those of scoring.scope_exclude.
        scaling: `none`; `tensor_norm`, every tensor brought to the same norm, the norm of the whole kept.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    scope_exclude: tuple[str, ...] = ()
    scaling: Scaling = "none"


@dataclass(frozen=True, kw_only=True)
class StabilitySettings:
    """The stability direction D_S, which stands for the gradient of a retention loss that is not at hand.

    Attributes:
        form: `divergence`, the gradient of the mean KL divergence of the scoring model from the reference on the texts of scoring.fisher;
            `fisher_drift`, the diagonal Fisher times the drift, the paper's.
        scope_exclude: patterns of parameter names that it leaves out, beside those of scoring.scope_exclude.
        scaling: `none`; `tensor_norm`, every tensor brought to the same norm, the norm of the whole kept.
        alignment_texts: texts of the alignment half of data.retention that D_S is compared with, at most.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    form: Literal["divergence", "fisher_drift"] = "divergence"
    scope_exclude: tuple[str, ...] = ()
    scaling: Scaling = "none"
    alignment_texts: int = 256

    def __post_init__(self) -> None:
        if self.alignment_texts < 1:
            raise ValueError(f"scoring.stability: alignment_texts {self.alignment_texts}; it must be at least 1")


Signal = Literal["margin", "el2n", "grad_norm"]
"""Signals that are computed when asked for (DESIGN 3.4)."""


@dataclass(frozen=True, kw_only=True)
class LowRankSettings:
    """Directions as products of thin factors, so that the scoring pass costs a third less (docs/benchmarks.md).

    Attributes:
        rank: columns of the factors of each matrix at most.
        energy: share of a matrix's squared norm after which further columns are left out; 1 = none is.
        min_spearman: least rank correlation of the values with those of the dense directions, on a sample; below it the run stops.
        num_sequences: sequences of that sample.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 16
    energy: float = 1.0
    min_spearman: float = 0.999
    num_sequences: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.energy <= 1 or not -1 <= self.min_spearman <= 1 or self.num_sequences < 1:
            raise ValueError(
                f"scoring.low_rank: rank {self.rank} (at least 1), energy {self.energy} (in (0, 1]), min_spearman {self.min_spearman} "
                f"(in [-1, 1]), num_sequences {self.num_sequences} (at least 1)"
            )


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How tokens are valued.

    Attributes:
        estimator: `exact`, the position × loss matrix of DESIGN 3.2, or `value_propagation`, the paper's released form (DESIGN 3.3).
        dtype: numbers the scoring pass computes in; values are stored in float32. Directions are always made in float32.
        batch_tokens: tokens of one batch, padding counted; halved when memory runs out. Lower it where the operating system kills the run:
            the next one plans what is left anew, in smaller batches.
        part_tokens: tokens of one part, the file that a killed run keeps: about a minute of work.
        scope_exclude: patterns of parameter names (`*` wildcards) that no direction covers.
        low_rank: value against low-rank forms of the directions; null = against the directions themselves.
        packing: put the sequences of a batch into one row, without padding.
        activation_checkpointing: keep the activations between layers alone, for long sequences; costs one forward pass more.
        signals: signals of the scoring model beside `loss` and `entropy`: any of `margin`, `el2n`, `grad_norm`. Another choice computes the
            signals of all sequences again, and no value of a direction.
        warmup: how the scoring model is made when `model.scoring` names none.
        fisher: texts on which the reference's Fisher and the divergence from it are taken.
        adaptation: the direction of what is to be learned.
        stability: the direction of what is not to be forgotten.
        propagation: how `value_propagation` works.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    estimator: Literal["exact", "value_propagation"] = "exact"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = 8192
    part_tokens: int = 262144
    scope_exclude: tuple[str, ...] = ()
    low_rank: LowRankSettings | None = None
    packing: bool = False
    activation_checkpointing: bool = False
    signals: tuple[Signal, ...] = ()
    warmup: WarmupSettings = field(default_factory=WarmupSettings)
    fisher: FisherSettings = field(default_factory=FisherSettings)
    propagation: PropagationSettings = field(default_factory=PropagationSettings)
    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
    stability: StabilitySettings = field(default_factory=StabilitySettings)

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or self.part_tokens < self.batch_tokens:
            raise ValueError(
                f"scoring: batch_tokens {self.batch_tokens} must be at least 1 and part_tokens {self.part_tokens} at least batch_tokens"
            )
        without = {
            "low_rank": self.low_rank is not None,
            "packing": self.packing,
            "activation_checkpointing": self.activation_checkpointing,
        }
        if self.estimator != "exact" and any(without.values()):
            asked = ", ".join(name for name, on in without.items() if on)
            raise ValueError(f"scoring: {asked} go with the estimator 'exact' only, not with {self.estimator!r}; leave them out")
        if unknown := [s for s in self.signals if s not in get_args(Signal)]:
            raise ValueError(f"scoring.signals: got {unknown[0]!r}, expected any of {', '.join(get_args(Signal))}")
        if len(set(self.signals)) < len(self.signals):
            raise ValueError(f"scoring.signals: got {', '.join(self.signals)}, expected each name once")
        if self.signals and self.estimator == "value_propagation":
            raise ValueError(
                f"scoring.signals: got {', '.join(self.signals)} with the estimator value_propagation, which gives loss and entropy alone; "
                "leave the list empty, or set scoring.estimator to exact"
            )
