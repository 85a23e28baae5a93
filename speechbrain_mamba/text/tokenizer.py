"""SentencePiece tokenizers: trained on transcripts, or taken from a folder or Hub id."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable

import sentencepiece

from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.pretrained import fetch_pretrained

FILE_NAME = "tokenizer.ckpt"
"""What SpeechBrain's recognisers call the tokenizer's file."""

TOKEN_TYPES = ("unigram", "bpe", "char")


def train_tokenizer(
    path: str | os.PathLike,
    transcripts: Iterable[str],
    vocab_size: int,
    token_type: str = "unigram",
    character_coverage: float = 1.0,
    bos_index: int = 1,
    eos_index: int = 2,
) -> sentencepiece.SentencePieceProcessor:
    """Train a tokenizer, and write it to a file, atomically. Token 0 stands for what is unknown.

    Arguments
    ---------
    path : str or Path
        The file.
    transcripts : iterable of str
        What to train on.
    vocab_size : int
        Number of tokens, with unknown, bos and eos.
    token_type : str
        ``unigram``, ``bpe`` or ``char``.
    character_coverage : float
        Share of the characters in the transcripts that get tokens; the rarest have none.
    bos_index, eos_index : int
        Tokens that begin and end a sentence.

    Returns
    -------
    sentencepiece.SentencePieceProcessor
        The tokenizer.

    Raises
    ------
    ValueError
        When the transcripts do not give the number of tokens, with how many they give, or an argument is out of range.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tokenizer.ckpt"
    >>> tokenizer = train_tokenizer(path, ["ABBA", "ABAB"], vocab_size=6, token_type="char")
    >>> tokenizer.decode(tokenizer.encode("AB BA")), load_tokenizer(path.parent, vocab_size=6).vocab_size()
    ('AB BA', 6)
    """
    if token_type not in TOKEN_TYPES:
        raise ValueError(f"token_type is {token_type!r}, but must be one of {', '.join(map(repr, TOKEN_TYPES))}.")
    transcripts = [text for text in transcripts if text.strip()]
    if not transcripts:
        raise ValueError("There are no transcripts to train a tokenizer on.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(transcripts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=token_type,
            character_coverage=character_coverage,
            bos_id=bos_index,
            eos_id=eos_index,
            unk_id=0,
            pad_id=-1,
            hard_vocab_limit=token_type != "char",
            use_all_vocab=token_type == "char",
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"No {token_type} tokenizer of {vocab_size} tokens can be trained on {len(transcripts)} transcripts: set "
            f"output_neurons to another number. SentencePiece says: {error}"
        ) from error
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    if tokenizer.vocab_size() != vocab_size:
        raise ValueError(
            f"The transcripts have {tokenizer.vocab_size()} tokens of type {token_type}, but output_neurons is "
            f"{vocab_size}: set it to {tokenizer.vocab_size()}, or use other transcripts."
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.getvalue())
    return tokenizer


def load_tokenizer(
    source: str | os.PathLike, vocab_size: int, collect_in: str | os.PathLike | None = None
) -> sentencepiece.SentencePieceProcessor:
    """Load a tokenizer that has been trained.

    Arguments
    ---------
    source : str or Path
        A folder with a ``tokenizer.ckpt``, or the Hub id of one, such as that of a SpeechBrain model.
    vocab_size : int
        The number of tokens that it must have.
    collect_in : str or Path, optional
        Where a file from the Hub is kept.

    Returns
    -------
    sentencepiece.SentencePieceProcessor
        The tokenizer.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file holds no tokenizer, or one with another number of tokens.

    Example
    -------
    See :func:`train_tokenizer`.
    """
    file = fetch_pretrained(source, FILE_NAME, collect_in)
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"'{file}' is no SentencePiece tokenizer: {error}") from error
    if tokenizer.vocab_size() != vocab_size:
        raise ValueError(
            f"The tokenizer '{file}' has {tokenizer.vocab_size()} tokens, but output_neurons is {vocab_size}: set it "
            f"to {tokenizer.vocab_size()}, or use another tokenizer."
        )
    return tokenizer
