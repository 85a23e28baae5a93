"""Text tokens of a synthesizer: phonemes, characters or pieces of words."""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from speechbrain_mamba.text.espeak import phonemes
from speechbrain_mamba.text.tokenizer import open_sentencepiece, train_sentencepiece
from speechbrain_mamba.utils.files import atomic_path

KINDS = ("ipa", "characters", "bpe")


def split_phonemes(ipa: str) -> list[str]:
    """Split phonemes in the International Phonetic Alphabet into letters with their marks, stress marks and spaces.

    Example
    -------
    >>> split_phonemes("θɹˈiː tˈuː")
    ['θ', 'ɹ', 'ˈ', 'iː', ' ', 't', 'ˈ', 'uː']
    """
    symbols: list[str] = []
    for character in ipa:
        mark = unicodedata.combining(character) or (unicodedata.category(character) == "Lm" and character not in "ˈˌ")
        if mark and symbols and symbols[-1] != " ":
            symbols[-1] += character
        else:
            symbols.append(character)
    return symbols


class TextTokenizer:
    """Turns a text into the numbers of its symbols, with an inventory that is saved with the model.

    Arguments
    ---------
    symbols : list of str
        The inventory.
    kind : str
        ``ipa``, phonemes as espeak-ng speaks them; ``characters``; or ``bpe``, pieces of words.
    language : str
        The espeak-ng language of texts without a language, such as ``en-us``, ``de`` or ``cmn``.
    model : bytes, optional
        The SentencePiece model of ``bpe``.

    Raises
    ------
    ValueError
        For another kind.

    Example
    -------
    >>> tokenizer = TextTokenizer.train(["one two", "two"], kind="characters")
    >>> tokenizer.encode("two"), len(tokenizer)
    ([4, 5, 3], 6)
    """

    def __init__(
        self, symbols: Iterable[str], kind: str = "ipa", language: str = "en-us", model: bytes | None = None
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"The kind of text tokens is '{kind}', but must be one of {', '.join(KINDS)}.")
        self.symbols, self.kind, self.language, self.model = list(symbols), kind, language, model
        self._index = {symbol: index for index, symbol in enumerate(self.symbols)}
        self._pieces = None if model is None else open_sentencepiece(model)

    @classmethod
    def train(
        cls, texts: Iterable[str | tuple[str, str]], kind: str = "ipa", language: str = "en-us", size: int = 500
    ) -> TextTokenizer:
        """The tokenizer with the inventory of some texts, or pairs of a text and its language.

        ``size`` is the largest number of pieces of ``bpe``; ``kind`` and ``language`` are those of the class.
        """
        pairs = [text if isinstance(text, tuple) else (text, language) for text in texts]
        if kind == "bpe":
            pieces = train_sentencepiece([text for text, _ in pairs], size, "bpe", exact=False)
            symbols = [pieces.id_to_piece(index) for index in range(pieces.vocab_size())]
            return cls(symbols, kind, language, pieces.serialized_model_proto())
        blank = cls([], kind, language)
        return cls(sorted({symbol for text, of in pairs for symbol in blank.split(text, of)}), kind, language)

    def __len__(self) -> int:
        return len(self.symbols)

    def split(self, text: str, language: str | None = None) -> list[str]:
        """The symbols of a text; its language is that of the tokenizer by default.

        Raises
        ------
        ValueError
            For an unknown language, or ``bpe`` without a model.
        """
        if self.kind == "ipa":
            return split_phonemes(phonemes(text, language or self.language))
        if self.kind == "characters":
            return list(text)
        if self._pieces is None:
            raise ValueError("Text tokens of the kind 'bpe' need a SentencePiece model, but there is none.")
        return self._pieces.encode(text, out_type=str)

    def adapt(self, text: str) -> tuple[str, str]:
        """Bring a text to the characters of the inventory, if these are letters and not phonemes.

        Letters get the other case if only that is known, and punctuation that is not known is left out.

        Returns
        -------
        str, str
            The text, and the characters that were left out, once each.

        Example
        -------
        >>> TextTokenizer.train(["ONE TWO"], kind="characters").adapt("Two, one!")
        ('TWO ONE', ',!')
        """
        if self.kind == "ipa":
            return text, ""
        known = {character for symbol in self.symbols for character in symbol.replace("\u2581", " ")}
        kept, dropped = [], dict[str, None]()
        for character in text:
            if character.isspace() and character not in known:
                character = " "
            near = [one for one in (character, character.upper(), character.lower()) if set(one) <= known]
            if near:
                kept.append(near[0])
            elif unicodedata.category(character)[0] in "PS":
                dropped[character] = None
            else:
                kept.append(character)  # encode names it
        return "".join(kept), "".join(dropped)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The numbers of a text's symbols, at least one, each below ``len(self)``.

        Raises
        ------
        ValueError
            For an unknown language, a text without a symbol, or symbols that are not in the inventory.
        """
        symbols = self.split(text, language)
        if not any(symbol.strip() for symbol in symbols):
            raise ValueError(f"The text {text!r} has nothing to say: no phonemes or characters were found in it.")
        unknown = sorted({symbol for symbol in symbols if symbol not in self._index})
        if unknown:
            raise ValueError(
                f"The text {text!r} has symbols that the model was not trained with: {' '.join(unknown)}. It knows "
                f"{' '.join(self.symbols)}."
            )
        return [self._index[symbol] for symbol in symbols]

    def add_space(self, numbers: list[int]) -> list[int]:
        """The numbers of a text that another text follows: with a space at the end if the inventory has one."""
        return numbers if self.kind == "bpe" or " " not in self._index else [*numbers, self._index[" "]]

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer to a JSON file."""
        model = None if self.model is None else base64.b64encode(self.model).decode()
        content = {"kind": self.kind, "language": self.language, "symbols": self.symbols, "model": model}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> TextTokenizer:
        """Read a tokenizer that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When the file is not a text tokenizer.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no text tokenizer '{path}': it is written when the data are prepared.")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            model = None if content["model"] is None else base64.b64decode(content["model"])
            return cls(content["symbols"], content["kind"], content["language"], model)
        except (KeyError, TypeError, ValueError, RecursionError) as error:  # anyone may have written it
            raise ValueError(f"'{path}' is not a text tokenizer: {error!r}.") from error
