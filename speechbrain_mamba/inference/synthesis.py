"""Ready-to-use synthesizers, from the Hugging Face Hub or a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torchaudio.functional
from torch import Tensor, nn

from speechbrain_mamba.codecs import EnCodec, load_codec, save_codec
from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.speech import Speech, check_codec, speak
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.pretrained import fetch_pretrained

_KEYS = ["modules", "sampler", "max_seconds", "prompt_seconds"]
_PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        ar: !ref <modules[ar]>
        nar: !ref <modules[nar]>
"""
_TEXT = "text.json"


class SpeechSynthesizer(Pretrained):
    """VALL-E, VALL-M or a hybrid of both: says a text in the voice of a prompt.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> from speechbrain_mamba.codecs import EnCodec
    >>> from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
    >>> codec = EnCodec(8000, (8, 5, 4), n_codebooks=4, codebook_size=16, dimension=8, n_filters=2)
    >>> sizes = {"token_folder": "unused", "num_layers": 1, "d_model": 16, "max_seconds": 0.1}
    >>> sizes |= {"n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size}
    >>> text, path = "hparams/tts/mini_vallm.yaml", folder / "model"
    >>> tokenizer = TextTokenizer.train(["one two three"], "characters")
    >>> export_synthesizer(path, read_hparams(text, sizes), load_hparams(text, sizes)["modules"], tokenizer, codec)
    >>> synthesizer = SpeechSynthesizer.from_hparams(source=str(path), savedir=str(folder / "cache"))
    >>> speech = synthesizer.synthesize_batch(["one"], torch.randn(1, 4000), prompt_texts=["two"])
    >>> bool(speech.lengths[0] <= 800)
    True
    """

    HPARAMS_NEEDED: ClassVar = ["sampler", "max_seconds", "prompt_seconds"]
    MODULES_NEEDED: ClassVar = ["ar", "nar"]

    @classmethod
    def from_hparams(  # type: ignore[override]  # all arguments of the base, by keyword
        cls, source: str, codec: str | None = None, *, cuda_graphs: bool = False, **options: Any
    ) -> SpeechSynthesizer:
        """Load a synthesizer.

        Arguments
        ---------
        source : str
            A folder that :func:`export_synthesizer` wrote, or the Hub id of one.
        codec : str, optional
            Another codec, as :func:`~speechbrain_mamba.codecs.load_codec` takes it; that of ``source`` by default.
        cuda_graphs : bool
            Whether the steps of a Mamba backbone are replayed as a CUDA graph, on a GPU.
        **options
            Options of SpeechBrain's ``from_hparams``: ``savedir``, ``run_opts``, ``overrides`` and others.

        Raises
        ------
        FileNotFoundError, ValueError
            When a file is missing, and when the model was trained for another codec.
        """
        self = super().from_hparams(source=source, **options)
        self.tokenizer = TextTokenizer.load(fetch_pretrained(source, _TEXT, options.get("savedir")))
        self.model = VallE(self.mods.ar, self.mods.nar).eval()
        self.model.use_cuda_graphs(cuda_graphs)
        self.codec = load_codec(codec or source, self.model.n_codebooks).to(self.device)
        check_codec(self.model, self.codec)
        self.model.max_prompt_frames = round(self.hparams.prompt_seconds * self.codec.frame_rate)
        self.max_frames = round(self.hparams.max_seconds * self.codec.frame_rate)
        return self

    @property
    def sample_rate(self) -> int:
        """Samples per second of prompts and speech."""
        return self.codec.sample_rate

    def synthesize_file(self, text: str, prompt: str, prompt_text: str, language: str | None = None) -> Tensor:
        """Say a text in the voice of a file: a waveform (samples,) at ``sample_rate``.

        Arguments
        ---------
        text : str
            The text to speak.
        prompt : str or Path
            A mono audio file of any rate.
        prompt_text : str
            The text of the file.
        language : str, optional
            The espeak-ng language of both texts; that of the training by default.

        Raises
        ------
        FileNotFoundError, ValueError
            When the file does not exist, and as :meth:`synthesize_batch`.
        """
        rate = audio_info(prompt).sample_rate
        wav = torchaudio.functional.resample(read_audio(prompt, rate), rate, self.sample_rate)
        speech = self.synthesize_batch([text], wav[None], prompt_texts=[prompt_text], languages=[language])
        return speech.wavs[0, : speech.lengths[0]]

    @torch.no_grad()
    def synthesize_batch(
        self,
        texts: Sequence[str],
        prompts: Tensor,
        prompt_lens: Tensor | None = None,
        *,
        prompt_texts: Sequence[str],
        languages: Sequence[str | None] | None = None,
    ) -> Speech:
        """Say some texts, each in the voice of its prompt: waveforms at ``sample_rate``.

        Arguments
        ---------
        texts, prompt_texts : sequence of str
            The texts to speak, and those of the prompts.
        prompts : Tensor
            Waveforms (batch, samples) at ``sample_rate``.
        prompt_lens : Tensor, optional
            Lengths relative to the longest prompt, (batch,) in [0, 1].
        languages : sequence of str, optional
            The espeak-ng languages of the texts; that of the training by default.

        Raises
        ------
        ValueError
            If there is no text, or the numbers of texts and prompts differ; for a prompt that is silent, not finite,
            shorter than one frame of the codec or longer than ``prompt_seconds``; for a text without phonemes or with
            unknown ones; and for an unknown language.
        RuntimeError
            When the model predicts something that is not finite.
        """
        spoken = [None] * len(texts) if languages is None else languages
        if not len(texts) == len(prompts) == len(prompt_texts) == len(spoken):
            raise ValueError(
                f"There are {len(texts)} texts, {len(prompts)} prompts, {len(prompt_texts)} texts of prompts and "
                f"{len(spoken)} languages, but each text needs one of each."
            )
        if not len(texts):
            raise ValueError("There is no text to say: give at least one.")
        relative = torch.ones(len(prompts)) if prompt_lens is None else prompt_lens.cpu()
        lengths = absolute_lengths(relative, prompts.shape[1])
        shortest = int(lengths.min())
        if shortest < self.codec.hop_length:
            raise ValueError(
                f"A prompt has {shortest} samples, which is shorter than one frame of the codec, "
                f"{self.codec.hop_length}: give some seconds of speech."
            )
        for place, (prompt_wav, length) in enumerate(zip(prompts, lengths.tolist())):
            heard = prompt_wav[:length]
            if not heard.isfinite().all() or not heard.any():
                state = "silent" if heard.isfinite().all() else "not finite"
                raise ValueError(f"Prompt {place} is {state}: give some seconds of speech.")
        encode = self.tokenizer.encode
        phonemes = Padded.collate([encode(text, language) for text, language in zip(texts, spoken)])
        said = Padded.collate([self.tokenizer.add_space(encode(*pair)) for pair in zip(prompt_texts, spoken)])
        codes = Padded(*self.codec.encode(prompts.to(self.device), lengths.to(self.device)))
        with self.inference_ctx:
            prompt = Utterances(said, codes)
            speech = speak(self.model, self.codec, prompt, phonemes, self.max_frames, self.hparams.sampler)
        broken = (~speech.wavs.isfinite().all(1)).nonzero()[:, 0].tolist()
        if broken:
            raise RuntimeError(
                f"The speech of {len(broken)} of {len(texts)} texts, such as number {broken[0]}, is not finite: the "
                "model or its codec has diverged, or the precision is too low. Try fp32, or another checkpoint."
            )
        return speech


def export_synthesizer(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    tokenizer: TextTokenizer,
    codec: EnCodec,
) -> None:
    """Write a synthesizer, ``ar``, ``nar``, the phonemes' tokenizer and the codec of the tokens, to a folder that
    ``SpeechSynthesizer.from_hparams`` loads, here or from the Hub; arguments as in
    :func:`~speechbrain_mamba.inference.export.exported`."""
    needed = {name: modules[name] for name in SpeechSynthesizer.MODULES_NEEDED}
    with exported(folder, hparams_text, _KEYS, _PRETRAINER, needed) as unfinished:
        tokenizer.save(unfinished / _TEXT)
        save_codec(codec, unfinished)
