"""Text tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechbrain_mamba.corpora.mini.sentences import make_sentences
from speechbrain_mamba.text.espeak import espeak_available, phonemes
from speechbrain_mamba.text.phonemes import TextTokenizer, split_phonemes

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeak-ng is not installed")
KINDS = ["characters", "bpe", pytest.param("ipa", marks=needs_espeak)]


@pytest.mark.parametrize(
    ("ipa", "symbols"),
    [
        ("", []),
        ("aː", ["aː"]),
        ("ˈa ˌb", ["ˈ", "a", " ", "ˌ", "b"]),
        ("aˈb", ["a", "ˈ", "b"]),
        ("n̩tʲ", ["n̩", "tʲ"]),
        ("aːˑb", ["aːˑ", "b"]),
        (" ʲ", [" ", "ʲ"]),
        ("ʲa", ["ʲ", "a"]),
    ],
)
def test_marks_stay_with_their_letters(ipa, symbols):
    assert split_phonemes(ipa) == symbols


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_inventory_gives_the_same_tokens(kind, tmp_path):
    texts = ["sieben drei", "eins zwei drei", "acht neun fünf"]
    tokenizer = TextTokenizer.train(texts, kind, "de", size=40)
    tokenizer.save(tmp_path / "text.json")
    loaded = TextTokenizer.load(tmp_path / "text.json")
    assert (loaded.kind, loaded.language, loaded.symbols) == (kind, "de", tokenizer.symbols)
    for text in texts:
        tokens = tokenizer.encode(text)
        assert loaded.encode(text) == tokens
        assert min(tokens) >= 0 and max(tokens) < len(loaded)
        assert [loaded.symbols[token] for token in tokens] == tokenizer.split(text)
    first = tokenizer.encode("drei")
    assert loaded.add_space(first) == tokenizer.add_space(first)


def test_the_file_of_an_inventory_is_made_again_from_what_it_holds(tmp_path):
    for kind, language in (("characters", "cmn"), ("bpe", "fr")):
        TextTokenizer.train(["eins zwei drei", "fünf"], kind, language, size=30).save(tmp_path / "text.json")
        TextTokenizer.load(tmp_path / "text.json").save(tmp_path / "again.json")
        assert (tmp_path / "text.json").read_bytes() == (tmp_path / "again.json").read_bytes()
        assert len(list(tmp_path.iterdir())) == 2


def test_symbols_are_numbered_in_their_order():
    tokenizer = TextTokenizer.train(["cab", "ü b"], "characters")
    assert tokenizer.symbols == [" ", "a", "b", "c", "ü"] and len(tokenizer) == 5
    assert tokenizer.encode("büc a") == [2, 4, 3, 0, 1]


def test_pieces_are_as_many_as_asked_for_and_cover_every_character():
    texts = [*["low lower lowest new newer newest"] * 40, "wide ü"]
    sizes = {size: TextTokenizer.train(texts, "bpe", size=size) for size in (20, 26)}
    assert {size: len(tokenizer) for size, tokenizer in sizes.items()} == {20: 20, 26: 26}
    assert len(sizes[20].encode("newest")) > len(sizes[26].encode("newest"))
    assert "".join(sizes[20].split("ü")) == "▁ü" and sizes[20].encode("ü")
    assert TextTokenizer.train([("low lower", "de"), "new"], "bpe", size=12).encode("new low")
    assert len(TextTokenizer.train(make_sentences(600, np.random.default_rng(0)), "bpe")) == 500


@needs_espeak
def test_languages_are_spoken_each_in_its_own_way(tmp_path):
    tokenizer = TextTokenizer.train([("nine", "en-us"), ("nine", "de")])
    assert tokenizer.encode("nine") == tokenizer.encode("nine", "en-us") != tokenizer.encode("nine", "de")
    with pytest.raises(ValueError, match="klingonese"):
        tokenizer.encode("nine", "klingonese")


@needs_espeak
def test_the_language_of_the_inventory_is_that_of_texts_without_one(tmp_path):
    tokenizer = TextTokenizer.train(["nine", ("nine", "en-us")], language="de")
    assert set(tokenizer.symbols) == set(split_phonemes(phonemes("nine", "de") + phonemes("nine", "en-us")))
    tokenizer.save(tmp_path / "text.json")
    for either in (tokenizer, TextTokenizer.load(tmp_path / "text.json")):
        assert (either.kind, either.language) == ("ipa", "de")
        assert either.split("nine") == either.split("nine", "de") == split_phonemes(phonemes("nine", "de"))
        assert either.split("nine", "en-us") == split_phonemes(phonemes("nine", "en-us"))
    assert TextTokenizer.train(["nine"]).split("nine") == split_phonemes(phonemes("nine", "en-us"))


@pytest.mark.parametrize(
    ("kind", "symbols", "followed"),
    [
        ("characters", "abc ", "ab "),
        ("ipa", " cba", "ab "),
        ("characters", "abc", "ab"),
        ("ipa", "abc", "ab"),
        ("bpe", "abc ", "ab"),
    ],
)
def test_a_text_ends_in_a_space_where_the_inventory_has_one(kind, symbols, followed):
    tokenizer, numbers = TextTokenizer(symbols, kind), [symbols.index(letter) for letter in "ab"]
    assert "".join(symbols[token] for token in tokenizer.add_space(numbers)) == followed
    assert len(numbers) == 2


@needs_espeak
@pytest.mark.parametrize(
    ("kind", "text"), [("ipa", ""), ("ipa", "..."), ("ipa", " "), ("characters", ""), ("characters", "  "), ("bpe", "")]
)
def test_text_without_symbols_is_named(kind, text):
    tokenizer = TextTokenizer.train(["nine ten"], kind, size=12)
    with pytest.raises(ValueError, match="has nothing to say"):
        tokenizer.encode(text)


def test_symbols_never_seen_are_named():
    tokenizer = TextTokenizer.train(["abc"], "characters")
    with pytest.raises(ValueError, match=r"'abüyy' has symbols that .* not trained with: y ü\. It knows a b c\."):
        tokenizer.encode("abüyy")
    with pytest.raises(ValueError, match="not trained with: ü"):
        TextTokenizer.train(["low lower lowest"], "bpe", size=12).encode("lowü")


@pytest.mark.parametrize("damage", ["kind", "language", "symbols", "model", "{", "[1]", "null"])
def test_damaged_files_are_named(damage, tmp_path):
    path = tmp_path / "text.json"
    TextTokenizer.train(["abc"], "characters").save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    if damage in content:
        del content[damage]
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_text(damage, encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.json' is not a text tokenizer"):
        TextTokenizer.load(path)


def test_pieces_of_words_need_their_model():
    with pytest.raises(ValueError, match="'bpe' need a SentencePiece model"):
        TextTokenizer("abc", "bpe").encode("abc")


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no text tokenizer"):
        TextTokenizer.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="'runes', but must be one of ipa, characters, bpe"):
        TextTokenizer([], "runes")
