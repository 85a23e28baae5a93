"""Text tokens."""

from __future__ import annotations

import pytest

from speechbrain_mamba.dataio.espeak import espeak_available
from speechbrain_mamba.dataio.phonemes import TextTokenizer, split_phonemes

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeak-ng is not installed")


@pytest.mark.parametrize(
    ("ipa", "symbols"),
    [("", []), ("aː", ["aː"]), ("ˈa ˌb", ["ˈ", "a", " ", "ˌ", "b"]), ("n̩tʲ", ["n̩", "tʲ"]), (" ʲ", [" ", "ʲ"])],
)
def test_marks_stay_with_their_letters(ipa, symbols):
    assert split_phonemes(ipa) == symbols


@pytest.mark.parametrize("kind", ["characters", "bpe", pytest.param("ipa", marks=needs_espeak)])
def test_a_saved_inventory_gives_the_same_tokens(kind, tmp_path):
    texts = ["seven three", "one two three", "eight nine"]
    tokenizer = TextTokenizer.train(texts, kind, size=40)
    tokenizer.save(tmp_path / "text.json")
    loaded = TextTokenizer.load(tmp_path / "text.json")
    for text in texts:
        tokens = tokenizer.encode(text)
        assert loaded.encode(text) == tokens
        assert min(tokens) >= 0 and max(tokens) < len(loaded)
        assert [loaded.symbols[token] for token in tokens] == tokenizer.split(text)


@needs_espeak
def test_languages_are_spoken_each_in_its_own_way():
    tokenizer = TextTokenizer.train([("nine", "en-us"), ("nine", "de")])
    assert tokenizer.encode("nine") == tokenizer.encode("nine", "en-us") != tokenizer.encode("nine", "de")
    with pytest.raises(ValueError, match="klingonese"):
        tokenizer.encode("nine", "klingonese")


@needs_espeak
@pytest.mark.parametrize("text", ["", "...", " "])
def test_text_without_phonemes_is_named(text):
    tokenizer = TextTokenizer.train(["nine"])
    with pytest.raises(ValueError, match="has nothing to say"):
        tokenizer.encode(text)


def test_symbols_never_seen_are_named():
    tokenizer = TextTokenizer.train(["abc"], "characters")
    with pytest.raises(ValueError, match="not trained with: y ü"):
        tokenizer.encode("abüy")


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no text tokenizer"):
        TextTokenizer.load(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(ValueError, match="is no text tokenizer"):
        TextTokenizer.load(tmp_path / "text.json")
    with pytest.raises(ValueError, match="ipa, characters, bpe"):
        TextTokenizer([], "runes")
