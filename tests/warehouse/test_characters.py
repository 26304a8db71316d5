"""Laws of warehouse/characters.py: kept characters are those that kept tokens alone make, for every kind of tokenizer, or an error."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from warehouse.characters import Characters, CharactersError

TEXTS = ["Hello wörld, 12 + 30 = 42", "naïve 😀 café\n\n  two", "日本 語 e\u0301", " leading and trailing ", "ends in 😀"]


def byte_level():
    """Pieces of bytes, some of half a character: Ġ and its like."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("Ġ", "w"), ("he", "ll"), ("ð", "Ł"), ("Ã", "¶"), ("Ġ", "Ġ")]
    words = {token: i for i, token in enumerate([*alphabet, *("".join(merge) for merge in merges)])}
    made = Tokenizer(models.BPE(words, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|im_end|>"])
    return made


def byte_fallback(dummy=True):
    """Sentencepiece's kind: ▁ for a space, one put in front, bytes for unknown characters."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁HelowrdSaniéct,12+30=4 ", "ll", "▁w", "He"]
    made = Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, [("l", "l"), ("▁", "w"), ("H", "e")], byte_fallback=True, unk_token="<unk>")
    )
    steps = [normalizers.Prepend("▁")] if dummy else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if dummy else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def words():
    """Whole words: white space makes no token, and most words are unknown."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "Hello": 1, "two": 2, "12": 3, "café": 4}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def unknown_pieces():
    """Sentencepiece's kind without bytes: ids do not spell the text, offsets must tell."""
    tokens = ["<unk>", *"▁Helowrd"]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return made


KINDS = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "no dummy": lambda: byte_fallback(False),
    "words": words,
    "unk": unknown_pieces,
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    made = {"folder": tmp_path_factory.mktemp("tokenizers")}
    for name, make in KINDS.items():
        path = made["folder"] / f"{name}.json"
        make().save(str(path))
        made[name] = Tokenizer.from_file(str(path)), Characters(path)
    return made


def cut_out(text, spans):
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_all_tokens_keep_all_characters_and_none_keeps_none(kinds, kind, text):
    tokenizer, characters = kinds[kind]
    ids = tokenizer.encode(text).ids
    whole = characters.turn(ids, [True] * len(ids), text, False)
    assert (whole.text, whole.is_own_text) == (text, True)
    assert cut_out(text, whole.kept_spans) == [text.rstrip() if kind == "words" else text]
    assert characters.turn(ids, [False] * len(ids), text, False).kept_spans == []


@pytest.mark.parametrize("kind", ["byte level", "byte fallback", "no dummy"])
@given(text=st.text(alphabet="Helo wrdéö😀日\n", max_size=20), seed=st.integers(0, 1000))
def test_kept_characters_are_those_whose_bytes_are_all_kept(kinds, kind, text, seed):
    tokenizer, characters = kinds[kind]
    ids = tokenizer.encode(text).ids
    chance = random.Random(seed)
    keep = [chance.random() < 0.6 for _ in ids]
    turn = characters.turn(ids, keep, text, False)
    pieces = [characters._piece(i) for i in ids]
    flags = [flag for piece, flag in zip(pieces, keep, strict=True) for _ in piece]
    raw = b"".join(pieces)
    place = len(raw) - len(text.encode())  # 1 behind a dummy space
    expected = []
    for char in text:
        size = len(char.encode())
        expected.append(all(flags[place : place + size]))
        place += size
    found = [any(start <= i < end for start, end in turn.kept_spans) for i in range(len(text))]
    assert found == expected
    assert all(one[1] < other[0] for one, other in zip(turn.kept_spans, turn.kept_spans[1:], strict=False))


def test_a_character_of_several_tokens_is_kept_only_with_all_of_them(kinds):
    tokenizer, characters = kinds["byte level"]
    ids = tokenizer.encode("a😀b").ids
    assert len(ids) == 5  # a, half of the face, a quarter, a quarter, b
    for dropped in (1, 2, 3):
        keep = [position != dropped for position in range(5)]
        assert characters.turn(ids, keep, "a😀b", False).kept_spans == [(0, 1), (2, 3)]


def test_space_that_no_token_makes_goes_with_the_word_behind_it(kinds):
    tokenizer, characters = kinds["words"]
    text = "Hello  two 12 "
    ids = tokenizer.encode(text).ids
    assert cut_out(text, characters.turn(ids, [True, False, True], text, False).kept_spans) == ["Hello", " 12"]
    assert cut_out(text, characters.turn(ids, [False, True, True], text, False).kept_spans) == ["  two 12"]


def test_a_dropped_dummy_space_does_not_take_the_first_character(kinds):
    for kind in ("byte fallback", "unk"):
        tokenizer, characters = kinds[kind]
        ids = tokenizer.encode("Hello").ids
        keep = [number > 0 for number in range(len(ids))]
        assert tokenizer.id_to_token(ids[0]) == "▁"
        assert characters.turn(ids, keep, "Hello", False).kept_spans == [(0, 5)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cut_took_is_not_kept(kinds, kind):
    tokenizer, characters = kinds[kind]
    text = TEXTS[1]
    encoding = tokenizer.encode(text)
    for length in range(1, len(encoding.ids)):
        turn = characters.turn(encoding.ids[:length], [True] * length, text, True)
        assert turn.text == text
        rest = characters.turn(encoding.ids, [number >= length for number in range(len(encoding.ids))], text, False)
        for start, end in turn.kept_spans:
            assert all(end <= a or b <= start for a, b in rest.kept_spans)
        assert len(turn.kept_spans) <= 1
        assert all(start == 0 for start, _ in turn.kept_spans)


def test_a_turn_without_a_text_of_its_own_is_what_its_tokens_spell(kinds):
    tokenizer, characters = kinds["byte level"]
    ids = tokenizer.encode("call<|im_end|> 😀").ids
    turn = characters.turn(ids, [True] * (len(ids) - 1) + [False], None, False)
    assert (turn.text, turn.kept_spans, turn.is_own_text) == ("call<|im_end|> 😀", [(0, 15)], False)
    cut = characters.turn(ids[:-1], [True] * (len(ids) - 1), None, True)
    assert (cut.text, cut.is_own_text) == ("call<|im_end|> ", False)


@pytest.mark.parametrize(
    ("own", "spelt", "kept", "expected"),
    [
        ("hello 😀", "hello 😀<end>\n", "hello 😀<end>\n", ["hello 😀"]),  # a mark behind it, no control token
        ("  hello\n", "hello", "o", ["o"]),  # stripped
        ("hello", "<think>\n\n</think>\n\nhello<end>", "hello<end>", ["hello"]),  # something before it
        ("<think>why</think>well", "well<end>", "well<end>", ["well"]),  # reasoning left out
        ("a", "a<a>", "a<a>", ["a"]),  # also in the mark, but it begins the turn
    ],
)
def test_a_turn_that_a_template_changed_has_the_kept_characters_of_its_message(kinds, own, spelt, kept, expected):
    tokenizer, characters = kinds["byte level"]
    ids = tokenizer.encode(spelt).ids
    starts = [start for start, _ in tokenizer.encode(spelt).offsets]
    turn = characters.turn(ids, [start >= spelt.index(kept) for start in starts], own, False)
    assert (turn.text, turn.is_own_text) == (own, True)
    assert cut_out(own, turn.kept_spans) == expected


def test_a_tokenizer_that_drops_what_it_does_not_know_is_understood(kinds):
    tokens = [*"▁Helowrd", "lo"]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("l", "o")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(prepend_scheme="first", split=False), decoders.Metaspace()
    file = kinds["folder"] / "drops.json"
    made.save(str(file))
    characters = Characters(file)
    ids = made.encode("He+lo wö=rld").ids
    assert "".join(tokens[i] for i in ids) == "▁Helo▁wrld"
    everything = characters.turn(ids, [True] * len(ids), "He+lo wö=rld", False)
    assert cut_out("He+lo wö=rld", everything.kept_spans) == ["He+lo wö=rld"]
    some = characters.turn(ids, [tokens[i] != "lo" for i in ids], "He+lo wö=rld", False)
    assert cut_out("He+lo wö=rld", some.kept_spans) == ["He", " wö=rld"]


def test_what_is_not_known_exactly_is_refused(kinds, tmp_path):
    tokenizer, characters = kinds["words"]
    with pytest.raises(CharactersError, match="has no token"):
        characters.turn([77, 78], [True] * 2, "hello", False)
    level, of_bytes = kinds["byte level"]
    with pytest.raises(CharactersError, match="not known exactly"):  # which of the two?
        of_bytes.turn(level.encode("hello").ids, [True] * 2, "hello hello?", False)
    with pytest.raises(CharactersError, match="not known exactly"):
        characters.turn(tokenizer.encode("Hello two").ids, [True, True], "two Hello", False)
    tokenizer, characters = kinds["unk"]
    assert characters.turn(tokenizer.encode("Hello").ids, [True] * 6, None, False).text == " Hello"
    with pytest.raises(CharactersError, match="not known exactly"):  # unknown pieces spell <unk>, which is not what they were
        characters.turn(tokenizer.encode("Hello ö").ids, [True] * 8, None, False)
    with pytest.raises(FileNotFoundError, match="Bring the reference model's folder back"):
        Characters(tmp_path / "tokenizer.json")
