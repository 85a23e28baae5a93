"""Ready-to-use synthesizers, from the Hugging Face Hub, a folder or the package."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor, nn

from speechbrain_mamba.codecs import EnCodec, load_codec, save_codec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.dataio.waveforms import as_float, check_relative_lengths
from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.inference.speaking_plan import SpeakingPlan, choose_seed, seed_of_piece
from speechbrain_mamba.inference.spoken_text import PAUSES, SpokenPiece, SpokenText, join_speech
from speechbrain_mamba.inference.voice_prompt import VoicePrompt, fit_prompt, read_prompt, set_level
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.speech import Speech, SpokenCodes, check_codec, speak_codes
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import select_hparams
from speechbrain_mamba.utils.yaml_text import parse_yaml

__all__ = ["SpeechSynthesizer", "SpokenPiece", "SpokenText", "export_synthesizer"]

_KEYS = ["modules", "sampler", "max_seconds", "prompt_seconds"]
_NEW_KEYS = ["prompt_level"]
"""Keys that hyper-parameters of earlier versions lack."""
_PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        ar: !ref <modules[ar]>
        nar: !ref <modules[nar]>
"""
TEXT = "text.json"
"""The file of the inventory of the texts."""

Prompt = str | os.PathLike | BinaryIO | Tensor | Any


class SpeechSynthesizer(Pretrained):
    """VALL-E, VALL-M or a hybrid of both: says a text in the voice of a prompt.

    Arguments
    ---------
    *arguments, **options
        As of SpeechBrain's ``Pretrained``; :meth:`from_hparams` gives them.
    codec : str, optional
        Another codec than the one of the model, as :func:`~speechbrain_mamba.codecs.load_codec` takes it.
    cuda_graphs : bool
        Whether the steps of a Mamba backbone are replayed as a CUDA graph, on a GPU.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> from speechbrain_mamba.codecs import EnCodec
    >>> from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
    >>> codec = EnCodec(8000, (8, 5, 4), n_codebooks=4, codebook_size=16, dimension=8, n_filters=2)
    >>> sizes = {"token_folder": "unused", "num_layers": 1, "d_model": 16, "max_seconds": 0.1}
    >>> sizes |= {"n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size}
    >>> text = "hparams/tts/mini_vallm.yaml"
    >>> tokenizer = TextTokenizer.train(["one two three"], "characters")
    >>> export_synthesizer(folder, read_hparams(text, sizes), load_hparams(text, sizes)["modules"], tokenizer, codec)
    >>> synthesizer = SpeechSynthesizer.from_hparams(folder)
    >>> spoken = synthesizer.synthesize("one", torch.randn(4000), prompt_text="two", seed=3)
    >>> spoken.sample_rate, spoken.seconds <= 0.1, spoken.seed
    (8000, True, 3)
    """

    HPARAMS_NEEDED: ClassVar = ["sampler", "max_seconds", "prompt_seconds"]
    MODULES_NEEDED: ClassVar = ["ar", "nar"]

    def __init__(self, *arguments: Any, codec: str | None = None, cuda_graphs: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._other_codec = codec
        self.model = VallE(self.mods.ar, self.mods.nar).eval()
        self.model.use_cuda_graphs(cuda_graphs)

    @classmethod
    def from_hparams(  # type: ignore[override]  # all arguments of the base, by keyword
        cls, source: str | os.PathLike, codec: str | None = None, *, cuda_graphs: bool = False, **options: Any
    ) -> SpeechSynthesizer:
        """Load a synthesizer.

        Arguments
        ---------
        source : str or Path
            A folder that :func:`export_synthesizer` wrote, the Hub id of one, or the name of one that the package has.
        codec, cuda_graphs
            As of the class.
        **options
            Options of :meth:`~speechbrain_mamba.inference.pretrained.Pretrained.from_hparams`: ``run_opts`` with device
            and precision, ``overrides`` and others.

        Raises
        ------
        FileNotFoundError, ValueError
            As there, and when the model was trained for another codec.
        """
        return super().from_hparams(source=source, codec=codec, cuda_graphs=cuda_graphs, **options)

    def on_loaded(self) -> None:
        """Load the tokenizer and the codec."""
        files = self.source_files
        self.tokenizer = TextTokenizer.load(files.find(TEXT))
        self.codec = load_codec(self._other_codec or files, self.model.n_codebooks).to(self.device)
        check_codec(self.model, self.codec)
        self.model.max_prompt_frames = round(self.hparams.prompt_seconds * self.codec.frame_rate)
        self.max_frames = round(self.hparams.max_seconds * self.codec.frame_rate)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the speech."""
        return self.codec.sample_rate

    def synthesize(
        self,
        text: str,
        prompt: Prompt,
        prompt_text: str,
        *,
        seed: int | None = None,
        language: str | None = None,
        max_seconds: float | None = None,
        prompt_rate: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> SpokenText:
        """Say a text of any length in the voice of a prompt.

        A text that is longer than the model can say at once is cut at the ends of sentences or phrases, or between
        words. All pieces have the voice of the same prompt.

        Arguments
        ---------
        text : str
            The text to speak.
        prompt : path, binary stream, Tensor or numpy.ndarray
            Some seconds of speech: a recording of any rate, number of channels and container, or samples (samples,) or
            (channels, samples), floats with full scale 1, int16 or int32. Silence at its ends is cut away if it is
            longer than the model takes.
        prompt_text : str
            What is said in it.
        seed : int, optional
            From 0 to 2**63 - 1. The same seed gives the same speech, and the global random numbers are not used. By
            default that of the model's sampler.
        language : str, optional
            The espeak-ng language of both texts; that of the training by default.
        max_seconds : float, optional
            The longest speech; what does not fit is left out. By default only each piece has a limit, of the model.
        prompt_rate : int, optional
            The rate of a prompt that is a tensor or an array; ``sample_rate`` by default.
        batch_size : int
            Pieces at a time.
        progress : callable, optional
            Called after each batch with the pieces that are done, and all pieces.

        Returns
        -------
        SpokenText
            The speech, and notices for the user.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError
            For a prompt that cannot be read, is silent, too short or too long, or has samples that are not finite; for
            a text without phonemes or with unknown ones, an unknown language, and arguments out of range.
        ImportError
            When the model needs espeak-ng, which is not installed.
        RuntimeError
            When the model predicts something that is not finite.
        """
        seed = choose_seed(seed, self.hparams.sampler)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}, but must be a whole number of at least 1.")
        voice = self._fit(read_prompt(prompt, self.sample_rate, prompt_rate))
        plan = SpeakingPlan.make(
            self.tokenizer, text, prompt_text, language, voice.wav, self.sample_rate, self.hparams.max_seconds
        )
        room = self._samples(max_seconds)
        most = self.max_frames if room is None else min(self.max_frames, room // self.codec.hop_length)
        codes, lengths = self.codec.encode(voice.wav[None].to(self.device))
        wavs: list[Tensor] = []
        tokens: list[Tensor] = []
        finished: list[bool] = []
        used = 0
        for first in range(0, len(plan.pieces), batch_size):
            batch = plan.phonemes[first : first + batch_size]
            said = Padded.collate([plan.prompt] * len(batch))
            heard = Padded(codes.expand(len(batch), -1, -1), lengths.expand(len(batch)))
            seeds = [seed_of_piece(seed, first + place) for place in range(len(batch))]
            spoken = self._speak(Utterances(said, heard), Padded.collate(batch), most, seeds)
            ends = zip(spoken.speech.lengths.tolist(), spoken.lengths.tolist(), spoken.speech.finished.tolist())
            for place, (samples, frames, ended) in enumerate(ends):
                pause = PAUSES[plan.pieces[len(wavs) - 1].end] if wavs else 0.0
                used += samples + round(pause * self.sample_rate)
                if room is not None and used > room:
                    break
                wavs.append(spoken.speech.wavs[place, :samples].float().cpu())
                tokens.append(spoken.codes[place, :frames].cpu())
                finished.append(ended)
            if progress is not None:
                progress(min(first + batch_size, len(plan.pieces)), len(plan.pieces))
            if len(wavs) < min(first + batch_size, len(plan.pieces)):
                break
        wav, pieces = join_speech(plan.pieces, wavs, finished, self.sample_rate)
        notices = [*voice.notices, *plan.notices, *plan.shortcomings(pieces, most / self.codec.frame_rate, max_seconds)]
        whole = len(pieces) == len(plan.pieces) and all(finished)
        return SpokenText(wav, self.sample_rate, torch.cat(tokens), pieces, whole, seed, tuple(notices))

    def _fit(self, voice: VoicePrompt) -> VoicePrompt:
        """Bring a prompt to the length and the level of those in training."""
        hop = self.codec.hop_length
        voice = fit_prompt(voice, self.sample_rate, hop, hop * int(self.model.max_prompt_frames or 0))
        return set_level(voice, getattr(self.hparams, "prompt_level", None))

    def _samples(self, max_seconds: float | None) -> int | None:
        if max_seconds is None:
            return None
        least = 1 / self.codec.frame_rate
        if isinstance(max_seconds, bool) or not isinstance(max_seconds, (int, float)) or not max_seconds >= least:
            raise ValueError(f"max_seconds is {max_seconds!r}, but must be a number of at least {least:.3g} seconds.")
        return int(min(max_seconds, 1e9) * self.sample_rate)

    def synthesize_file(self, text: str, prompt: Prompt, prompt_text: str, language: str | None = None) -> Tensor:
        """Say a text in the voice of a recording: a waveform (samples,) at ``sample_rate``.

        Arguments, errors and speech are those of :meth:`synthesize`, without its options and notices.
        """
        return self.synthesize(text, prompt, prompt_text, language=language).wav

    def synthesize_batch(
        self,
        texts: Sequence[str],
        prompts: Tensor,
        prompt_lens: Tensor | Sequence[float] | None = None,
        *,
        prompt_texts: Sequence[str],
        languages: Sequence[str | None] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> Speech:
        """Say some texts at once, each in the voice of its prompt: waveforms at ``sample_rate``.

        Arguments
        ---------
        texts, prompt_texts : sequence of str
            The texts to speak, and those of the prompts.
        prompts : Tensor or numpy.ndarray
            Waveforms (batch, samples) at ``sample_rate``: floats with full scale 1, int16 or int32.
        prompt_lens : Tensor or sequence of float, optional
            Lengths relative to the longest prompt, (batch,) in [0, 1].
        languages : sequence of str, optional
            The espeak-ng languages of the texts; that of the training by default.
        seed : int or sequence of int, optional
            A seed for all texts or one for each. A text is then said as it is said alone with its seed. By default the
            sampler goes on with its own random numbers.

        Raises
        ------
        ValueError, TypeError
            If there is no text, or the numbers of texts and prompts differ; for a prompt that is silent, not finite,
            shorter than one frame of the codec or longer than ``prompt_seconds``; for a text without phonemes or with
            unknown ones; for an unknown language, and for arguments of another kind.
        ImportError
            When the model needs espeak-ng, which is not installed.
        RuntimeError
            When the model predicts something that is not finite.
        """
        for name, given in (("texts", texts), ("prompt_texts", prompt_texts), ("languages", languages)):
            if isinstance(given, str):
                raise TypeError(f"{name} is one string: give a list, with an entry for each prompt.")
        spoken = [None] * len(texts) if languages is None else languages
        prompts = as_float(prompts, "prompts")
        if prompts.dim() != 2:
            raise ValueError(f"prompts has shape {tuple(prompts.shape)}, but must be (batch, samples).")
        if not len(texts) == len(prompts) == len(prompt_texts) == len(spoken):
            raise ValueError(
                f"There are {len(texts)} texts, {len(prompts)} prompts, {len(prompt_texts)} texts of prompts and "
                f"{len(spoken)} languages, but each text needs one of each."
            )
        if not len(texts):
            raise ValueError("There is no text to say: give at least one.")
        seeds = self._seeds(seed, len(texts))
        lens = torch.ones(len(prompts)) if prompt_lens is None else prompt_lens
        relative = check_relative_lengths(lens, len(prompts), "prompt_lens").cpu()
        lengths = absolute_lengths(relative, prompts.shape[1])
        self._check_prompts(prompts, lengths)
        encode = self.tokenizer.encode
        phonemes = Padded.collate([encode(text, language) for text, language in zip(texts, spoken)])
        said = Padded.collate([self.tokenizer.add_space(encode(*pair)) for pair in zip(prompt_texts, spoken)])
        codes = Padded(*self.codec.encode(prompts.to(self.device), lengths.to(self.device)))
        return self._speak(Utterances(said, codes), phonemes, self.max_frames, seeds).speech

    def _seeds(self, seed: int | Sequence[int] | None, count: int) -> list[int] | None:
        if seed is None:
            return None
        seeds = [seed] * count if isinstance(seed, int) else list(seed)
        if len(seeds) != count:
            raise ValueError(f"There are {len(seeds)} seeds for {count} texts: give one seed, or one for each text.")
        return [choose_seed(one, self.hparams.sampler) for one in seeds]

    def _check_prompts(self, prompts: Tensor, lengths: Tensor) -> None:
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

    @torch.no_grad()
    def _speak(self, prompt: Utterances, phonemes: Padded, max_frames: int, seeds: list[int] | None) -> SpokenCodes:
        """Speak a batch, each example with its own random numbers if there are seeds."""
        sampler = self.hparams.sampler if seeds is None else self.hparams.sampler.for_examples(seeds)
        with self.inference_ctx:
            spoken = speak_codes(self.model, self.codec, prompt, phonemes, max_frames, sampler)
        wavs = spoken.speech.wavs
        broken = (~wavs.isfinite().all(1)).nonzero()[:, 0].tolist()
        if broken:
            raise RuntimeError(
                f"The speech of {len(broken)} of {len(wavs)} texts, such as number {broken[0]}, is not finite: the "
                "model or its codec has diverged, or the precision is too low. Try fp32, or another checkpoint."
            )
        return spoken


def export_synthesizer(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    tokenizer: TextTokenizer,
    codec: EnCodec,
) -> None:
    """Write a synthesizer to a folder that ``SpeechSynthesizer.from_hparams`` loads, here or from the Hub.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    modules : mapping of str to torch.nn.Module
        ``ar`` and ``nar``.
    tokenizer : TextTokenizer
        The inventory of its texts.
    codec : EnCodec
        The codec of its tokens.
    """
    needed = {name: modules[name] for name in SpeechSynthesizer.MODULES_NEEDED}
    with exported(folder, synthesizer_yaml(hparams_text), needed) as unfinished:
        tokenizer.save(unfinished / TEXT)
        save_codec(codec, unfinished)


def synthesizer_yaml(hparams_text: str) -> str:
    """The ``hyperparams.yaml`` of an exported synthesizer, from that of its training."""
    there = parse_yaml(hparams_text, "The hyper-parameters")
    return select_hparams(hparams_text, [*_KEYS, *(key for key in _NEW_KEYS if key in there)]) + _PRETRAINER
