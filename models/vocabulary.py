"""Readable texts of a tokenizer's tokens."""

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_texts(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Give a readable text for every id.

    Args:
        tokenizer: a fast tokenizer.

    Returns:
        One text per id below `len(tokenizer)`: leading spaces kept, bytes that are no whole character as "<0xE2>", control tokens as
        themselves, "" for an id without a token. Texts of an ASCII string's ids concatenate to it, after a dummy space if one was put there.
    """
    decoder = str(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level vocabularies write as themselves
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}

    def read(token: str | None) -> str:
        if token is None:
            return ""
        if "ByteLevel" in decoder and all(char in alphabet for char in token):
            return _bytes_text(bytes(alphabet[char] for char in token))
        if "ByteFallback" in decoder and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return _bytes_text(bytes.fromhex(token[3:5]))
        return token.replace("▁", " ") if "▁" in decoder else token

    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [added[token_id] if token_id in added else read(token) for token_id, token in enumerate(tokens)]


def _bytes_text(raw: bytes) -> str:
    """Decode UTF-8, with bytes that are no whole character as "<0xE2>"."""
    return re.sub(r"[\udc80-\udcff]", lambda hit: f"<0x{ord(hit[0]) - 0xDC00:02X}>", raw.decode(errors="surrogateescape"))
