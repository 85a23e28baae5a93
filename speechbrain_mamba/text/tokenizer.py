"""SentencePiece models: trained on texts, or loaded from a folder or the Hub."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from speechbrain.utils.distributed import run_on_main

from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.pretrained import fetch_pretrained

FILE_NAME = "tokenizer.ckpt"
"""The name of a tokenizer's file in SpeechBrain's recognizers."""

TOKEN_TYPES = ("unigram", "bpe", "char")
_UNLIMITED = 1 << 20


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    token_type: str = "unigram",
    character_coverage: float = 1.0,
    bos_index: int = 1,
    eos_index: int = 2,
    exact: bool = True,
) -> sentencepiece.SentencePieceProcessor:
    """Train a SentencePiece model (Kudo and Richardson, 2018). Token 0 is the unknown token.

    Arguments
    ---------
    texts : iterable of str
        The training data.
    vocab_size : int
        Number of tokens, with unknown, bos and eos. ``char`` makes a token of each character, however many there are.
    token_type : str
        ``unigram``, ``bpe`` or ``char``.
    character_coverage : float
        Fraction of the characters in the texts that tokens cover; the rarest characters get none.
    bos_index, eos_index : int
        Tokens that begin and end a sentence.
    exact : bool
        Whether texts that give fewer tokens are an error.

    Raises
    ------
    ValueError
        When there is no text, no such model can be trained, or the type is unknown.

    Example
    -------
    >>> train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char").encode("AB", out_type=str)
    ['▁', 'A', 'B']
    """
    if token_type not in TOKEN_TYPES:
        raise ValueError(f"token_type is {token_type!r}, but must be one of {', '.join(map(repr, TOKEN_TYPES))}.")
    sentences = [text for text in texts if text.strip()]
    if not sentences:
        raise ValueError("There are no texts to train a tokenizer on.")
    model, characters = io.BytesIO(), token_type == "char"
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=_UNLIMITED if characters else vocab_size,
            model_type=token_type,
            character_coverage=character_coverage,
            bos_id=bos_index,
            eos_id=eos_index,
            unk_id=0,
            pad_id=-1,
            hard_vocab_limit=exact and not characters,
            # all characters become tokens, whatever the coverage
            use_all_vocab=characters and character_coverage >= 1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"No {token_type} tokenizer of {vocab_size} tokens can be trained on {len(sentences)} texts: choose "
            f"another number of tokens (output_neurons). SentencePiece says: {error}"
        ) from error
    return open_sentencepiece(model.getvalue())


def open_sentencepiece(model: bytes, name: str = "The model") -> sentencepiece.SentencePieceProcessor:
    """Open a trained SentencePiece model from the content of its file.

    Raises a ValueError, which calls the model by the ``name``, when this is not a SentencePiece model.

    Example
    -------
    >>> trained = train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> open_sentencepiece(trained.serialized_model_proto()).vocab_size()
    6
    """
    try:
        if not model:  # which SentencePiece takes without complaint
            raise RuntimeError("It is empty.")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"{name} is not a SentencePiece model: {error}") from error


def spell(tokenizer: sentencepiece.SentencePieceProcessor, tokens: Iterable[int]) -> str:
    """Spell tokens as a text, without control pieces such as ``<s>`` and without the mark of the unknown token.

    Example
    -------
    >>> tokenizer = train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> tokens = tokenizer.encode("AB")
    >>> spell(tokenizer, [1, *tokens, 0, 2]), tokenizer.decode([1, *tokens, 0, 2])
    ('AB', 'AB ⁇ ')
    """
    return tokenizer.decode([token for token in tokens if not is_special(tokenizer, token)])


def is_special(tokenizer: sentencepiece.SentencePieceProcessor, token: int) -> bool:
    """Whether a token stands for no text: a control piece such as ``<s>``, the unknown token, or an unused one."""
    return tokenizer.is_control(token) or tokenizer.is_unknown(token) or tokenizer.is_unused(token)


def check_special_tokens(tokenizer: sentencepiece.SentencePieceProcessor, **indices: int) -> None:
    """Make sure that tokens with a meaning of their own, such as the blank of CTC, are not those of a text.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    **indices : int
        The tokens, by what the hyper-parameters call them, such as ``eos_index``. ``blank_index`` must be the unknown
        token: greedy decoding drops it, and would spell the unknown one otherwise.

    Raises
    ------
    ValueError
        When a token stands for text, or does not exist, or the blank is not the unknown token.

    Example
    -------
    >>> tokenizer = train_sentencepiece(["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> check_special_tokens(tokenizer, blank_index=0, eos_index=2)
    >>> check_special_tokens(tokenizer, eos_index=3)
    Traceback (most recent call last):
    ValueError: eos_index is 3, but must be a token without a text, which the tokenizer has as 0, 1, 2.
    """
    special = [token for token in range(tokenizer.vocab_size()) if is_special(tokenizer, token)]
    for name, index in indices.items():
        free = [tokenizer.unk_id()] if name == "blank_index" else special
        if index not in free:
            kind = "the unknown token" if name == "blank_index" else "a token without a text"
            raise ValueError(
                f"{name} is {index}, but must be {kind}, which the tokenizer has as {', '.join(map(str, free))}."
            )


def train_tokenizer(
    path: str | os.PathLike, transcripts: Iterable[str], vocab_size: int, token_type: str = "unigram", **options: Any
) -> sentencepiece.SentencePieceProcessor:
    """Train the tokenizer of a recognizer as :func:`train_sentencepiece` does, and write it to a file, atomically.

    Arguments
    ---------
    path : str or Path
        The file.
    transcripts : iterable of str
        The training data.
    vocab_size : int
        Number of tokens, with unknown, bos and eos; that of ``char`` follows from the transcripts and must be the same.
    token_type, **options
        As in :func:`train_sentencepiece`.

    Raises
    ------
    ValueError
        When the transcripts give another number of tokens, which is named, or an argument is out of range.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tokenizer.ckpt"
    >>> tokenizer = train_tokenizer(path, ["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> tokenizer.decode(tokenizer.encode("AB BA")), load_tokenizer(path.parent, vocab_size=6).vocab_size()
    ('AB BA', 6)
    """
    tokenizer = train_sentencepiece(transcripts, vocab_size, token_type, **options)
    if tokenizer.vocab_size() != vocab_size:
        raise ValueError(
            f"The transcripts have {tokenizer.vocab_size()} tokens of type {token_type}, but output_neurons is "
            f"{vocab_size}: set it to {tokenizer.vocab_size()}, or use other transcripts."
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(tokenizer.serialized_model_proto())
    return tokenizer


def load_tokenizer(
    source: str | os.PathLike, vocab_size: int, collect_in: str | os.PathLike | None = None
) -> sentencepiece.SentencePieceProcessor:
    """Load a trained tokenizer.

    Arguments
    ---------
    source : str or Path
        A folder with a ``tokenizer.ckpt``, or the Hub id of one, such as that of a SpeechBrain model.
    vocab_size : int
        The number of tokens that it must have.
    collect_in : str or Path, optional
        Where a file from the Hub is kept.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is not a tokenizer, or has another number of tokens.
    """
    file = fetch_pretrained(source, FILE_NAME, collect_in)
    tokenizer = open_sentencepiece(Path(file).read_bytes(), f"'{file}'")
    if tokenizer.vocab_size() != vocab_size:
        raise ValueError(
            f"The tokenizer '{file}' has {tokenizer.vocab_size()} tokens, but output_neurons is {vocab_size}: set it "
            f"to {tokenizer.vocab_size()}, or use another tokenizer."
        )
    return tokenizer


def load_or_train_tokenizer(
    source: str | os.PathLike | None,
    folder: str | os.PathLike,
    transcripts: Iterable[str],
    vocab_size: int,
    **options: Any,
) -> sentencepiece.SentencePieceProcessor:
    """Load a trained tokenizer, or train one that later runs with the same folder find there.

    All processes of a run call it: the main process writes, the others wait.

    Arguments
    ---------
    source : str or Path, optional
        As in :func:`load_tokenizer`. By default a tokenizer is trained.
    folder : str or Path
        Where a trained tokenizer, or one from the Hub, is kept.
    transcripts, vocab_size, **options
        As in :func:`train_tokenizer`.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> first = load_or_train_tokenizer(None, folder, ["ABBA"], vocab_size=6, token_type="char")
    >>> again = load_or_train_tokenizer(None, folder, ["OTHER"], vocab_size=6, token_type="char")
    >>> again.decode(first.encode("ABBA"))
    'ABBA'
    """
    file = Path(folder) / FILE_NAME

    def prepare() -> None:
        if source is not None:
            load_tokenizer(source, vocab_size, folder)
        elif not file.is_file():
            train_tokenizer(file, transcripts, vocab_size, **options)

    run_on_main(prepare)
    return load_tokenizer(folder if source is None else source, vocab_size, folder)
