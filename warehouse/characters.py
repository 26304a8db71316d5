"""Which characters of a response its kept tokens are: exact, or refused.

A vocabulary's texts alone do not tell: tokenizers drop white space and characters they do not know, put dummy spaces in, and split
characters into bytes. So the pieces of a response are joined as bytes and must give the very text; where they do not, the text is encoded
again, must give the very ids, and the tokenizer's offsets count. The turns of a chat may say more or less than the message they come from
(a template adds marks, strips space, leaves reasoning out): there the pieces must be what the tokenizer decodes, and hold the message's text.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


class CharactersError(ValueError):
    """The characters behind some tokens cannot be told exactly."""


@dataclass(frozen=True)
class Turn:
    """An assistant turn in characters.

    Attributes:
        text: what the assistant says, without the end-of-turn token: the example's own text where the tokens give it, else what they spell.
        kept_spans: [start, end) of every maximal run of kept characters. A character is kept when all tokens that make it are kept; one
            that no token makes (white space that a tokenizer drops) goes with the character behind it.
        is_own_text: whether `text` is the example's own, character for character.
    """

    text: str
    kept_spans: list[tuple[int, int]]
    is_own_text: bool


class Characters:
    """Finds the characters of tokens, with the tokenizer that made them."""

    def __init__(self, tokenizer_json: Path) -> None:
        """Load a tokenizer; neither transformers nor torch is needed.

        Args:
            tokenizer_json: the `tokenizer.json` of the model's folder.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not tokenizer_json.is_file():
            raise FileNotFoundError(
                f"{tokenizer_json} does not exist: the characters of tokens are known to the tokenizer alone. Bring the reference model's folder "
                "back, or export --format parquet, which has no characters"
            )
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_truncation()
        described = json.loads(self._tokenizer.to_str())
        self._decoder = json.dumps(described["decoder"], ensure_ascii=False)
        named = self._tokenizer.token_to_id(described["model"].get("unk_token") or "")
        self._unknown = described["model"].get("unk_id") if named is None else named
        self._added = {i: token.content.encode() for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level vocabularies write as themselves
        hidden = [byte for byte in range(256) if byte not in shown]
        self._bytes_of = {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
        self._pieces: dict[int, bytes] = {}
        self._characters: set[str] = set()

    def turn(self, token_ids: Sequence[int], keep: Sequence[bool], own: str | None, is_cut: bool) -> Turn:
        """Find the kept characters of a turn.

        Args:
            token_ids: its tokens, without the end-of-turn token.
            keep: whether each is kept.
            own: the text that the example has for this turn; None where it has none.
            is_cut: whether the end of the turn may have been cut off.

        Returns:
            the turn.

        Raises:
            CharactersError: neither the pieces nor the offsets of the tokens give a text that is known to be theirs.
        """
        if own and (found := self._own(list(token_ids), list(keep), own, is_cut)) is not None:
            return found
        pieces = [self._piece(token_id) for token_id in token_ids]
        text = b"".join(pieces).decode(errors="ignore" if is_cut else "surrogateescape")  # a cut may go through a character
        decoded = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        spelt = decoded.rstrip("\ufffd") if is_cut else decoded
        if self._unknown not in token_ids and text in {spelt, f" {spelt}"}:  # sentencepiece strips a first space
            kept = _kept(text, _by_bytes(pieces, 0, text), keep)
            if not own or not own.strip():
                return Turn(text, _spans(*kept), False)
            if (places := self._places(text, own, is_cut)) is not None:
                is_made, is_kept = np.ones(len(own), np.bool_), np.zeros(len(own), np.bool_)
                known = places >= 0
                is_made[places[known].min() : places[known].max()] = False  # what is left between the tokens, not what a template left out
                is_made[places[known]], is_kept[places[known]] = True, kept[1][known]
                return Turn(own, _spans(is_made, is_kept), True)
        raise CharactersError(
            f"the tokens spell {text[:60]!r}, which is not the example's text as this tokenizer reads it, so the characters that are kept are "
            "not known exactly; export --format parquet, which has no characters"
        )

    def _own(self, token_ids: list[int], keep: list[bool], own: str, is_cut: bool) -> Turn | None:
        """Find the kept characters of the example's own text; None where the tokens are not that text's."""
        if is_cut:  # what was cut off goes back on, as tokens that are not kept
            whole = self._tokenizer.encode(own, add_special_tokens=False).ids
            if whole[: len(token_ids)] == token_ids:
                token_ids, keep = whole, keep + [False] * (len(whole) - len(keep))
        pieces = [self._piece(token_id) for token_id in token_ids]
        raw = b"".join(pieces)
        for places in self._readings(own):
            text = "".join(own[place] for place in places)
            for dummy in (b"", b" "):  # sentencepiece puts a space before a text
                spelt = dummy + text.encode()
                if raw == spelt or (is_cut and spelt.startswith(raw)):
                    made = _by_bytes(pieces, len(dummy), text)
                    return Turn(
                        own, _spans(*_kept(own, [(places[a], places[b - 1] + 1) if a < b else (0, 0) for a, b in made], keep)), True
                    )
        encoding = self._tokenizer.encode(own, add_special_tokens=False)
        if encoding.ids != token_ids:
            return None
        made = [_visible(offset, piece, own) for offset, piece in zip(encoding.offsets, pieces, strict=True)]
        return Turn(own, _spans(*_kept(own, made, keep)), True)

    def _readings(self, own: str) -> Iterator[Sequence[int]]:
        """Give the characters that the tokenizer may read: all, or those it has a piece for (some drop the others without a mark)."""
        yield range(len(own))
        if "ByteLevel" in self._decoder or self._tokenizer.token_to_id("<0x00>") is not None:  # every character has bytes
            return
        if not self._characters:
            self._characters = {token.replace("▁", " ") for token in self._tokenizer.get_vocab() if len(token) == 1}
        yield [place for place, char in enumerate(own) if char in self._characters]

    def _places(self, text: str, own: str, is_cut: bool) -> NDArray[np.int64] | None:
        """Find the example's text in what the tokens of its turn spell.

        Returns:
            place in `own` of each character of `text`, -1 for what a template added; None where the one is not in the other, or not in
            one place alone.
        """
        said, at = text.strip(), len(text) - len(text.lstrip())
        for reading in self._readings(own):
            read = "".join(own[place] for place in reading)
            for part in (read, read.rpartition("</think>")[2]):  # a template may leave reasoning out
                core, begin = part.strip(), len(read) - len(part.lstrip())
                if core and (said.startswith(core) or text.count(core) == 1):
                    at = text.find(core)
                elif said and ((is_cut and core.startswith(said)) or core.count(said) == 1):
                    begin, core = begin + core.find(said), said
                else:
                    continue
                places = np.full(len(text), -1, dtype=np.int64)
                places[at : at + len(core)] = [reading[begin + offset] for offset in range(len(core))]
                return places
        return None

    def _piece(self, token_id: int) -> bytes:
        """Give the bytes that a token stands for.

        Returns:
            the bytes, perhaps a part of a character.

        Raises:
            CharactersError: there is no such token.
        """
        if token_id not in self._pieces:
            token = self._tokenizer.id_to_token(token_id)
            if token is None:
                raise CharactersError(f"the tokenizer has no token {token_id}; it is another one than the data were tokenized with")
            if token_id in self._added:
                piece = self._added[token_id]
            elif "ByteLevel" in self._decoder and all(char in self._bytes_of for char in token):
                piece = bytes(self._bytes_of[char] for char in token)
            elif "ByteFallback" in self._decoder and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                piece = bytes.fromhex(token[3:5])
            else:
                piece = (token.replace("▁", " ") if "▁" in self._decoder else token).encode()
            self._pieces[token_id] = piece
        return self._pieces[token_id]


def _visible(offset: tuple[int, int], piece: bytes, text: str) -> tuple[int, int]:
    """Give the characters of a token by its offset; a dummy space, which offsets lay on the character behind it, makes none."""
    start, end = offset
    return (start, start) if not piece.strip() and text[start:end].strip() else (start, end)


def _by_bytes(pieces: Sequence[bytes], skipped: int, text: str) -> list[tuple[int, int]]:
    """Find which characters each piece makes, wholly or in part, where the joined pieces are the text after `skipped` bytes."""
    sizes = [len(char.encode(errors="surrogateescape")) for char in text]
    char_of: NDArray[np.int64] = np.append(np.repeat(np.arange(len(text)), sizes), len(text))
    ends = np.cumsum([len(piece) for piece in pieces]) - skipped
    made = []
    for piece, end in zip(pieces, ends.tolist(), strict=True):
        begin, end = max(0, end - len(piece)), min(max(0, end), len(char_of) - 1)
        made.append((int(char_of[begin]), int(char_of[end - 1]) + 1) if begin < end else (0, 0))
    return made


def _kept(text: str, made: Iterable[tuple[int, int]], keep: Sequence[bool]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell of every character whether some token makes it, and whether no dropped token helps to."""
    is_made, is_dropped = np.zeros(len(text), np.bool_), np.zeros(len(text), np.bool_)
    for (start, end), kept in zip(made, keep, strict=True):
        is_made[start:end] = True
        is_dropped[start:end] |= not kept
    return is_made, is_made & ~is_dropped


def _spans(is_made: NDArray[np.bool_], is_kept: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Join the kept characters to spans; what no token makes goes with the character behind it."""
    kept = np.append(is_kept, False)
    for place in np.flatnonzero(~is_made)[::-1]:
        kept[place] = kept[place + 1]
    borders = np.flatnonzero(np.diff(np.concatenate([[False], kept]).astype(np.int8)))
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))
