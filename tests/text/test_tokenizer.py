"""SentencePiece tokenizers."""

import pytest

from speechbrain_mamba.text import tokenizer as module
from speechbrain_mamba.text.tokenizer import FILE_NAME, load_tokenizer, train_tokenizer
from speechbrain_mamba.utils.pretrained import fetch_pretrained

TEXTS = ["LOW LOWER LOWEST", "NEW NEWER NEWEST", "WIDE WIDER WIDEST", "SLOW SLOWER SLOWEST"]


def pieces(tokenizer) -> list[str]:
    return [tokenizer.id_to_piece(index) for index in range(tokenizer.vocab_size())]


@pytest.mark.parametrize("token_type, size", [("unigram", 20), ("bpe", 20), ("char", 14)])
def test_a_trained_tokenizer_is_loaded_as_it_was(token_type, size, tmp_path):
    trained = train_tokenizer(tmp_path / FILE_NAME, TEXTS, size, token_type, bos_index=2, eos_index=1)
    loaded = load_tokenizer(tmp_path, size)
    assert pieces(loaded) == pieces(trained) and len(pieces(loaded)) == size
    assert (loaded.unk_id(), loaded.bos_id(), loaded.eos_id(), loaded.pad_id()) == (0, 2, 1, -1)
    for text in ("NEWEST LOW", "SLOWEST WIDE"):
        assert loaded.encode(text) == trained.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
        assert not {0, 1, 2} & set(loaded.encode(text))
    assert 0 in loaded.encode("Ü")


def test_the_type_of_tokens_is_the_one_asked_for(tmp_path):
    """Pairs of bytes are scored by their order, a unigram's pieces by the logarithm of how likely they are."""
    scores = {}
    for token_type, size in (("unigram", 20), ("bpe", 20), ("char", 14)):
        tokenizer = train_tokenizer(tmp_path / token_type, TEXTS, size, token_type)
        scores[token_type] = [tokenizer.get_score(index) for index in range(3, size)]
        assert (max(map(len, pieces(tokenizer)[3:])) == 1) == (token_type == "char")
    assert scores["bpe"] == [-float(order) for order in range(17)]
    assert all(score < 0 and score != round(score) for score in scores["unigram"])
    default = train_tokenizer(tmp_path / "default", TEXTS, 20)
    assert [default.get_score(index) for index in range(3, 20)] == scores["unigram"]
    assert (default.bos_id(), default.eos_id()) == (1, 2)


@pytest.mark.parametrize("token_type", ["unigram", "bpe"])
def test_rare_characters_get_tokens_unless_coverage_leaves_them_out(token_type, tmp_path):
    texts = [*TEXTS * 10, "Q"]
    assert "Q" in pieces(train_tokenizer(tmp_path / FILE_NAME, texts, 20, token_type))
    assert "Q" not in pieces(train_tokenizer(tmp_path / FILE_NAME, texts, 20, token_type, character_coverage=0.99))


def test_rare_characters_are_left_out_of_character_tokens_too(tmp_path):
    texts = [*TEXTS * 10, "Q"]
    everything = pieces(train_tokenizer(tmp_path / FILE_NAME, texts, 15, "char"))
    common = pieces(train_tokenizer(tmp_path / FILE_NAME, texts, 14, "char", character_coverage=0.99))
    assert set(everything) - set(common) == {"Q"}
    for size in (13, 15):
        with pytest.raises(ValueError, match=f"have 14 tokens of type char, but output_neurons is {size}"):
            train_tokenizer(tmp_path / FILE_NAME, texts, size, "char", character_coverage=0.99)


@pytest.mark.parametrize("size", [5, 31])
def test_all_characters_get_tokens_or_their_number_is_told(size, tmp_path):
    with pytest.raises(ValueError, match=rf"have 6 tokens of type char, but output_neurons is {size}: set it to 6"):
        train_tokenizer(tmp_path / FILE_NAME, ["ABBA AB"], size, "char")


@pytest.mark.parametrize(
    ("texts", "size", "token_type", "words"),
    [
        (["ABBA AB"], 5000, "unigram", "No unigram tokenizer of 5000 tokens can be trained on 1 texts"),
        (["ABBA AB", " ", "BABA"], 5000, "bpe", "No bpe tokenizer of 5000 tokens can be trained on 2 texts"),
        (["ABBA"], 6, "word", "token_type is 'word'.*'unigram', 'bpe', 'char'"),
        ([" ", ""], 6, "char", "no texts"),
    ],
)
def test_a_failed_training_is_explained_and_leaves_the_file_as_it_was(texts, size, token_type, words, tmp_path):
    train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], 6, "char")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ValueError, match=words):
        train_tokenizer(tmp_path / FILE_NAME, texts, size, token_type)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], 6, "char")
    for size in (5, 7):
        with pytest.raises(ValueError, match=f"has 6 tokens, but output_neurons is {size}: set it to 6"):
            load_tokenizer(tmp_path, vocab_size=size)


def test_a_tokenizer_of_the_hub_is_kept_where_it_is_wanted(tmp_path, monkeypatch):
    train_tokenizer(tmp_path / "fetched", ["ABBA", "ABAB"], 6, "char")
    asked = []
    monkeypatch.setattr(module, "fetch_pretrained", lambda *args: asked.append(args) or tmp_path / "fetched")
    assert load_tokenizer("someone/model", 6, tmp_path / "kept").vocab_size() == 6
    assert asked == [("someone/model", "tokenizer.ckpt", tmp_path / "kept")]


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.ckpt"):
        load_tokenizer(tmp_path, vocab_size=6)
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*missing'"):
        fetch_pretrained(tmp_path / "missing", "lm.ckpt")
    for content in ("nothing of the sort", ""):
        (tmp_path / FILE_NAME).write_text(content)
        with pytest.raises(ValueError, match=r"tokenizer\.ckpt' is not a SentencePiece model"):
            load_tokenizer(tmp_path, vocab_size=6)
