"""The networks themselves, as users of the Hugging Face Hub know models: ``from_pretrained``, ``save_pretrained`` and
``push_to_hub``.

Their folders are those that trainings export, so that a model that was saved here is loaded by ``from_hparams``, by the
commands and by ``--init_from`` too, and any exported folder is loaded here. They are loaded without trusting them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from sentencepiece import SentencePieceProcessor
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.fetching import FetchConfig
from torch import Tensor, nn

from speechbrain_mamba.codecs import EnCodec, load_codec, save_codec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.bundled import CARD
from speechbrain_mamba.inference.loadables import fill
from speechbrain_mamba.inference.model_card import UNKNOWN, CardFacts, write_card
from speechbrain_mamba.inference.pretrained import SETTINGS, OpenedModel, open_model
from speechbrain_mamba.inference.recognition_export import recognizer_yaml, seq2seq_yaml
from speechbrain_mamba.inference.separation import separator_yaml
from speechbrain_mamba.inference.synthesis import TEXT, synthesizer_yaml
from speechbrain_mamba.lobes.models.recognition.speech_features import encoder_input
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.system import GeneratedCodes, Sampler
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.nnet.mixers import describe_mixers
from speechbrain_mamba.ops import absolute_lengths, mask_frames
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.text.tokenizer import open_sentencepiece
from speechbrain_mamba.utils._compat import normalizer_statistics, save_normalizer
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.safe_yaml import build_model_yaml, check_model_yaml
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS, write_weights
from speechbrain_mamba.utils.yaml_text import parse_yaml

Own = TypeVar("Own", bound="HubModel")


class ModelParts:
    """What a model is made of.

    Arguments
    ---------
    text : str
        Its ``hyperparams.yaml``.
    built : mapping
        What that builds.
    """

    def __init__(self, text: str, built: Mapping[str, Any]) -> None:
        self.text, self.built = text, built
        self.loadables: dict[str, Any] = dict(built["pretrainer"].loadables)


class HubModel(
    nn.Module,
    ModelHubMixin,
    library_name="speechbrain",
    tags=["speechbrain", "speechbrain_mamba", "mamba"],
    paper_url="https://arxiv.org/abs/2407.09732",
):
    """Base of the models: a module with parts that have files.

    Get one by :meth:`from_pretrained`, or with first weights by ``from_settings``. In training mode it is trained like
    any module; :meth:`save_pretrained` and ``push_to_hub`` write it.

    Arguments
    ---------
    parts : ModelParts
        What it is made of.
    """

    kind = ""
    """Which models it loads, one of :data:`~speechbrain_mamba.inference.pretrained.KINDS`."""

    def __init__(self, parts: ModelParts) -> None:
        super().__init__()
        self.parts = parts
        for name, module in parts.built["modules"].items():
            self.add_module(name, module)

    # ---------------------------------------------------------------------------------------------------- from files

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's, whose other options are passed on
        cls: type[Own],
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> Own:
        """Load a trained model, in evaluation mode.

        Arguments
        ---------
        pretrained_model_name_or_path : str or Path
            A folder that a training or :meth:`save_pretrained` wrote, a Hub id, or the name of a model that comes with
            the package.
        force_download : bool
            Whether to ask the Hub for the newest files, although some are here.
        token, cache_dir, local_files_only, revision
            As everywhere on the Hub: the token, the folder of the cache, whether the network is left alone, and the
            branch, tag or commit.
        **options
            ``overrides`` of the settings, ``sources`` and ``trust_yaml``, as of
            :meth:`~speechbrain_mamba.inference.pretrained.Pretrained.from_hparams`.

        Raises
        ------
        FileNotFoundError, ValueError
            When there is no such model, it is of another kind, or its weights do not fit.
        """
        config = FetchConfig(
            allow_updates=force_download or revision is not None,
            allow_network=not local_files_only,
            token=token,  # type: ignore[arg-type]
            revision=revision,  # type: ignore[arg-type]
            huggingface_cache_dir=None if cache_dir is None else os.fspath(cache_dir),  # type: ignore[arg-type]
        )
        opened = open_model(pretrained_model_name_or_path, fetch_config=config, **options)
        if opened.kind != cls.kind:
            raise ValueError(
                f"'{pretrained_model_name_or_path}' holds {f'a {opened.kind}' if opened.kind else 'another model'}, "
                f"but {cls.__name__} loads a {cls.kind}."
            )
        if opened.checked is None:
            raise ValueError("trust_yaml is for from_hparams: these models are of this package, whose names are known.")
        found = opened.find_files()
        with torch.random.fork_rng(devices=[]):
            parts = ModelParts(opened.text, build_model_yaml(opened.checked))
            for name, path in found.items():
                fill(parts.loadables[name], path, f"{name} of '{opened.files.source}'")
            model = cls(parts)
            model.load_more(opened)
        return model.eval()

    def load_more(self, opened: OpenedModel) -> None:
        """Load what belongs to the model beside its parts."""

    # ------------------------------------------------------------------------------------------------------ to files

    def save_pretrained(  # type: ignore[override]  # the mixin's
        self,
        save_directory: str | os.PathLike,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model into a folder that ``from_pretrained``, ``from_hparams`` and the commands load.

        Arguments
        ---------
        save_directory : str or Path
            The folder. Files of an earlier model there are replaced; its card stays.
        config : optional
            Taken for the mixin's sake; the settings are those of the model.
        repo_id, push_to_hub, **push_to_hub_kwargs
            Whether it is uploaded too, and where to: by default to a repository with the name of the folder.
        model_card_kwargs : mapping, optional
            ``license`` and ``language`` for the card.

        Returns
        -------
        str, optional
            The address of the commit, if it was uploaded.

        Raises
        ------
        ValueError
            When a part cannot be saved, such as a recognizer without a tokenizer.
        """
        folder = Path(save_directory)
        self.check_complete()
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.loadables.items():
            _write_part(part, folder, name)
        self.save_more(folder)
        with atomic_path(folder / SETTINGS) as temporary:
            temporary.write_text(self.parts.text, encoding="utf-8")
        if not (folder / CARD).exists():
            card = self.generate_model_card(name=(repo_id or folder.name), **(model_card_kwargs or {}))
            card.save(folder / CARD)
        if not push_to_hub:
            return None
        options = {"model_card_kwargs": model_card_kwargs, **push_to_hub_kwargs}
        return str(self.push_to_hub(repo_id or folder.name, **options))

    def check_complete(self) -> None:
        """Refuse to save what could not be loaded; a ValueError says what is missing."""

    def save_more(self, folder: Path) -> None:
        """Save what belongs to the model beside its parts."""

    def generate_model_card(self, *args: Any, name: str = "model", **kwargs: Any) -> ModelCard:
        """The card that a folder gets which has none; ``license`` and ``language`` are the caller's to say."""
        parameters = sum(one.numel() for one in self.parameters())
        rate = int(self.parts.built.get("sample_rate", self.default_rate()))
        facts = CardFacts(
            self.kind, name.rpartition("/")[2], name, parameters, rate, kwargs.get("license", UNKNOWN),
            kwargs.get("language", "en"), mixers=describe_mixers(self),
        )  # fmt: skip
        return ModelCard(write_card(facts))

    def default_rate(self) -> int:
        """Samples per second of the audio, if the settings do not say."""
        return 16000


def _write_part(part: Any, folder: Path, name: str) -> None:
    if isinstance(part, InputNormalization):
        with atomic_path(folder / f"{name}{CHECKPOINT}") as temporary:
            save_normalizer(part, temporary)
    elif isinstance(part, nn.Module):
        for suffix in (SAFETENSORS, CHECKPOINT):
            write_weights(folder / f"{name}{suffix}", part.state_dict())
    elif isinstance(part, SentencePieceProcessor):
        with atomic_path(folder / f"{name}{CHECKPOINT}") as temporary:
            temporary.write_bytes(part.serialized_model_proto())
    else:
        raise ValueError(f"{name} is a {type(part).__name__}, which cannot be saved here.")


def _build(text: str, name: str | os.PathLike) -> ModelParts:
    """The parts of a model with first weights."""
    return ModelParts(text, build_model_yaml(check_model_yaml(text, str(name))))


class SeparationModel(HubModel, pipeline_tag="audio-to-audio", tags=["speech-separation"]):
    """Encoder, mask network and decoder of a separator: Mamba-TasNet, DPMamba, SepFormer or a mixture of layers.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> sizes = {"n_mamba": 1, "N_encoder_out": 16, "out_channels": 8}
    >>> model = SeparationModel.from_settings("hparams/separation/mini_mambatasnet.yaml", sizes).eval()
    >>> model.save_pretrained(folder)
    >>> mix = torch.randn(2, 4000)
    >>> torch.equal(SeparationModel.from_pretrained(folder)(mix), model(mix)), model(mix).shape
    (True, torch.Size([2, 4000, 2]))
    """

    kind = "separator"
    encoder: Any
    masknet: Any
    decoder: Any

    @classmethod
    def from_settings(cls, hparams: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> SeparationModel:
        """A model with first weights.

        Arguments
        ---------
        hparams : str or Path
            A hyper-parameter file of separation.
        overrides : mapping, optional
            Hyper-parameters to replace, such as ``num_spks``.
        """
        model = cls(_build(separator_yaml(read_hparams(hparams, overrides)), hparams))
        for module in model.children():
            reset_parameters(module)  # copies of a block get their own
        return model

    @property
    def sample_rate(self) -> int:
        """Samples per second of its audio."""
        return int(self.parts.built["sample_rate"])

    def forward(self, mix: Tensor, mix_lens: Tensor | None = None) -> Tensor:
        """Separate mixtures.

        Arguments
        ---------
        mix : Tensor
            Mixtures (batch, samples).
        mix_lens : Tensor, optional
            Lengths relative to the longest, floats (batch,) in [0, 1].

        Returns
        -------
        Tensor
            Estimates (batch, samples, speakers), zero past each length.
        """
        return separate(self.encoder, self.masknet, self.decoder, mix, mix_lens)


class RecognitionModel(HubModel, pipeline_tag="automatic-speech-recognition", tags=["speech-recognition"]):
    """Features, encoder and output layers of a recognizer with a ConMamba or a Conformer, and its tokenizer.

    Example
    -------
    >>> sizes = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "output_neurons": 9}
    >>> model = RecognitionModel.from_settings("hparams/asr/mini_conmamba_ctc.yaml", sizes)
    >>> encoded, lens = model.encode(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> encoded.shape[2], model(torch.randn(2, 16000)).shape[2]
    (16, 9)
    """

    kind = "recognizer"
    encoder: Any

    def __init__(self, parts: ModelParts) -> None:
        super().__init__(parts)
        if not isinstance(parts.built.get("normalize"), InputNormalization):
            raise ValueError("This recognizer has no features of this package's recipes: load it with Recognizer.")

    @classmethod
    def from_settings(
        cls,
        hparams: str | os.PathLike,
        overrides: Mapping[str, Any] | None = None,
        tokenizer: str | os.PathLike | None = None,
    ) -> RecognitionModel:
        """A model with first weights.

        Arguments
        ---------
        hparams : str or Path
            A hyper-parameter file of recognition.
        overrides : mapping, optional
            Hyper-parameters to replace, such as ``output_neurons``.
        tokenizer : str or Path, optional
            The file of a SentencePiece model, which the model needs before it is saved.
        """
        text = read_hparams(hparams, overrides)
        tree = parse_yaml(text, str(hparams))
        if "seq_lin" in tree:
            text = seq2seq_yaml(text)
        else:
            chunked, causal = bool(tree["streaming"]), bool(tree["causal"])
            streams = (chunked or causal) and tree["encoder_module"] == "conmamba"
            text = recognizer_yaml(text, chunked, streams)
        model = cls(_build(text, hparams))
        if tokenizer is not None:
            content = Path(tokenizer).read_bytes()
            open_sentencepiece(content, f"'{tokenizer}'")
            model.tokenizer.LoadFromSerializedProto(content)
        return model

    @property
    def sample_rate(self) -> int:
        """Samples per second of its audio."""
        return int(self.parts.built["sample_rate"])

    @property
    def tokenizer(self) -> SentencePieceProcessor:
        """Its tokenizer; empty if it has none yet."""
        return self.parts.built["tokenizer"]

    def encode(self, wavs: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's output.

        Arguments
        ---------
        wavs : Tensor
            Waveforms (batch, samples).
        wav_lens : Tensor, optional
            Lengths relative to the longest, floats (batch,) in [0, 1].

        Returns
        -------
        encoded, lens : Tensor
            Output (batch, frames, channels), zero past each length, and relative lengths, floats (batch,).
        """
        built, lens = self.parts.built, wavs.new_ones(len(wavs)) if wav_lens is None else wav_lens
        parts = (built["compute_features"], built["normalize"], built["CNN"])
        if "Encoder" not in built:
            return self.encoder.encode(wavs, lens)
        src, frames = encoder_input(*parts, wavs, lens)
        encoded = built["Encoder"](src, frames, dynchunktrain_config=self.encoder.chunk_config)
        return mask_frames(encoded, absolute_lengths(frames, encoded.shape[1], encoded.device)), frames

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Log-probabilities of CTC (batch, frames, tokens) of waveforms (batch, samples)."""
        return self.parts.built["ctc_lin"](self.encode(wavs, wav_lens)[0]).float().log_softmax(-1)

    def check_complete(self) -> None:
        """Refuse a recognizer without a tokenizer or without statistics of its features."""
        if self.tokenizer.vocab_size() == 0:
            raise ValueError("The recognizer has no tokenizer: give the file of one to from_settings.")
        statistics = normalizer_statistics(self.parts.built["normalize"]) or {}
        if not statistics.get("count"):
            raise ValueError(
                "The recognizer has no statistics of its features yet: train it, or call normalize on features."
            )


class SynthesisModel(HubModel, pipeline_tag="text-to-speech", tags=["speech-synthesis"]):
    """The autoregressive and the non-autoregressive model of VALL-M, VALL-E or a hybrid, the inventory of its texts and
    the codec of its tokens.

    Example
    -------
    >>> model = SynthesisModel.from_pretrained("synthesizer-digits")
    >>> said = Padded.collate([model.tokenizer.encode("one")])
    >>> codes, lengths = model.codec.encode(torch.randn(1, 4000), torch.tensor([4000]))
    >>> model(Utterances(said, Padded(codes, lengths)), said, max_frames=3).codes.shape[2] == model.codec.n_codebooks
    True
    """

    kind = "synthesizer"
    ar: Any
    nar: Any

    def __init__(self, parts: ModelParts) -> None:
        super().__init__(parts)
        self.tokenizer: TextTokenizer | None = None
        self.codec: EnCodec | None = None

    @classmethod
    def from_settings(
        cls,
        hparams: str | os.PathLike,
        overrides: Mapping[str, Any] | None = None,
        tokenizer: TextTokenizer | None = None,
        codec: EnCodec | None = None,
    ) -> SynthesisModel:
        """A model with first weights.

        Arguments
        ---------
        hparams : str or Path
            A hyper-parameter file of synthesis.
        overrides : mapping, optional
            Hyper-parameters to replace.
        tokenizer, codec : TextTokenizer, EnCodec, optional
            The inventory of its texts and the codec of its tokens, which the model needs before it is saved.
        """
        model = cls(_build(synthesizer_yaml(read_hparams(hparams, overrides)), hparams))
        model.tokenizer, model.codec = tokenizer, codec
        return model

    def load_more(self, opened: OpenedModel) -> None:
        """Load the inventory and the codec."""
        self.tokenizer = TextTokenizer.load(opened.files.find(TEXT))
        self.codec = load_codec(opened.files, self.nar.n_codebooks)

    def default_rate(self) -> int:
        """That of the codec."""
        return 24000 if self.codec is None else self.codec.sample_rate

    def check_complete(self) -> None:
        """Refuse a synthesizer without an inventory of texts or a codec."""
        missing = [name for name in ("tokenizer", "codec") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"The synthesizer has no {' and no '.join(missing)}: give them to from_settings.")

    def save_more(self, folder: Path) -> None:
        """Save the inventory and the codec."""
        assert self.tokenizer is not None and self.codec is not None
        self.tokenizer.save(folder / TEXT)
        save_codec(self.codec, folder)

    def forward(
        self, prompt: Utterances, phonemes: Padded, max_frames: int, sampler: Sampler | None = None
    ) -> GeneratedCodes:
        """Speak: arguments and result as of :meth:`~speechbrain_mamba.lobes.models.synthesis.system.VallE.generate`.
        The two models are trained on their own, ``model.ar`` and ``model.nar``."""
        return VallE(self.ar, self.nar).generate(prompt, phonemes, max_frames, sampler)


__all__ = ["HubModel", "RecognitionModel", "SeparationModel", "SynthesisModel"]
