"""The retention text's half for alignment, disjoint from the half that training is measured on."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.identities import Tokenization
from tasks.settings import Configuration
from tasks.training_plan import retention_half
from warehouse.digests import digest
from warehouse.ingest import read_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AlignmentTexts:
    """The alignment half of `data.retention`.

    Attributes:
        texts: distinct texts in an order that depends on their contents alone.
        tokenizer_digest: identity of the vocabulary.
        max_length: tokens of a text at most.
    """

    texts: list[str]
    tokenizer_digest: str
    max_length: int

    def for_fisher(self, config: Configuration) -> "AlignmentTexts":
        """Take the texts that the Fisher is estimated on."""
        return dataclasses.replace(self, texts=self.texts[: config.scoring.fisher.num_sequences])

    def for_alignment(self, config: Configuration) -> "AlignmentTexts":
        """Take the texts that D_S is compared with."""
        return dataclasses.replace(self, texts=self.texts[: config.scoring.stability.alignment_texts])

    @property
    def identity(self) -> str:
        """Identity of the texts as tokens: 32 hexadecimal digits."""
        return digest("alignment", self.texts, self.tokenizer_digest, self.max_length)

    def encode(self, tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
        """Tokenize: the start token where the vocabulary has one, then the text, cut at max_length; as training measures retention."""
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        encoded = tokenizer(self.texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [(start + ids)[: self.max_length] for ids in encoded]


def alignment_texts(config: Configuration, how: Tokenization) -> AlignmentTexts | None:
    """Read the alignment half of the retention text; None where none is configured.

    Returns:
        the texts.

    Raises:
        ValueError: `scoring.fisher.source` is `retention` and there is no retention text, or the half is empty.
    """
    if config.data.retention is None:
        if config.scoring.fisher.source == "retention":
            raise ValueError(
                "scoring.fisher.source is 'retention', but data.retention is not set; name a file of text that the reference model knows, "
                "or set scoring.fisher.source to 'self'"
            )
        return None
    texts = retention_half(read_texts(config.data.retention, config.base), 0)
    if not texts and config.scoring.fisher.source == "retention":
        raise ValueError(f"data.retention {config.data.retention.path} has too few texts to be halved (alignment; evaluation); give more")
    if not texts:
        return None  # a single text may fall into the other half; stability_alignment is then not measured
    length = how.settings.max_length
    assert length is not None, "an identified tokenization has its length resolved"
    return AlignmentTexts(texts, how.tokenizer_digest, length)
