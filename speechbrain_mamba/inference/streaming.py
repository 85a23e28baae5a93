"""Recognition of speech while it is being spoken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor

from speechbrain_mamba.dataio.waveforms import as_float, check_finite
from speechbrain_mamba.decoders.alignment import GreedySpans, words_of_spans
from speechbrain_mamba.inference.log_prob_stream import LogProbStream
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.lobes.models.recognition.ctc_encoder import CTCEncoder
from speechbrain_mamba.lobes.models.recognition.streaming_interface import StreamingEncoder, StreamingExtractor
from speechbrain_mamba.text.spelling import SpellingContext, spell_next
from speechbrain_mamba.text.tokenizer import load_tokenizer, spell
from speechbrain_mamba.text.transcripts import Word
from speechbrain_mamba.training.averaging import best_checkpoints, load_average
from speechbrain_mamba.utils.hparams import read_hparams


class StreamingRecognizer(Pretrained):
    """A CTC recognizer for audio that comes in pieces: the text grows with each of them.

    Work and memory per piece do not grow with the length of the stream, except for the text, and the final text equals
    the one that :meth:`recognize` gives for the whole waveform. The encoder must be a ConMamba that is causal, or was
    trained to see chunk by chunk. ``from_hparams`` loads the folder that a run exports, :meth:`from_run` a run that is
    not finished.

    Example
    -------
    After ``recipes/asr/train.py hparams/asr/mini_conmamba_ctc_streaming.yaml``::

        recognizer = StreamingRecognizer.from_hparams("results/asr/mini_conmamba_ctc_streaming/7775/inference")
        for piece in pieces:  # (samples,) each
            print(recognizer.add(piece))
        print(recognizer.finish())
    """

    HPARAMS_NEEDED: ClassVar[list[str]] = ["tokenizer", "sample_rate", "blank_index", "chunk_config"]
    MODULES_NEEDED: ClassVar[list[str]] = ["encoder", "enc", "proj_enc", "fea_streaming_extractor"]
    LACKING: ClassVar[dict[str, str]] = {
        "recognizer": "cannot run on a stream: it needs whole utterances, or a decoder writes its text. Train one with "
        "CTC and --streaming True or --causal True"
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tokenizer, self.sample_rate = self.hparams.tokenizer, self.hparams.sample_rate
        self.reset()

    @classmethod
    def from_run(
        cls, hparams_file: str | os.PathLike, overrides: str | Mapping[str, Any] | None = None
    ) -> StreamingRecognizer:
        """Load a recognizer from the checkpoints of its training, with the averaged weights of the best.

        Arguments
        ---------
        hparams_file : str or Path
            The hyper-parameter file that it was trained with, which is trusted as that of a training.
        overrides : str or dict, optional
            The values that replaced those of the file in the training.

        Raises
        ------
        ValueError, FileNotFoundError
            When the recognizer cannot run on a stream, and when it has not been trained.
        """
        hparams = load_hyperpyyaml(read_hparams(hparams_file, overrides))
        check_streams(hparams["streaming"], hparams["causal"], hparams["Encoder"])
        checkpointer = hparams["checkpointer"]
        checkpointer.check_all()
        checkpoints = best_checkpoints(checkpointer, "greedy_WER", hparams["avg_checkpoints"], hparams["avg_tolerance"])
        if not checkpoints:
            raise FileNotFoundError(
                f"There is no checkpoint in '{hparams['save_folder']}': train the recognizer first."
            )
        checkpointer.load_checkpoint(checkpoints[0])
        load_average(checkpointer, checkpoints)
        folder = hparams["tokenizer_folder"] or hparams["save_folder"]
        return cls.from_parts(hparams, load_tokenizer(folder, hparams["output_neurons"], hparams["save_folder"]))

    @classmethod
    def from_parts(cls, hparams: Mapping[str, Any], tokenizer: Any) -> StreamingRecognizer:
        """Make a recognizer of hyper-parameters that are loaded, with ``modules`` (``CNN``, ``Encoder``, ``ctc_lin``
        and ``normalize``), and its tokenizer."""
        parts = hparams["modules"]
        front = (hparams["compute_features"], parts["normalize"], parts["CNN"])
        chunks, blank = hparams["chunk_config"], hparams["blank_index"]
        modules = {
            "encoder": CTCEncoder(
                *front, parts["Encoder"], parts["ctc_lin"], blank, chunks if hparams["streaming"] else None
            ),
            "enc": StreamingEncoder(parts["Encoder"], hparams["d_model"]),
            "proj_enc": parts["ctc_lin"],
            "fea_streaming_extractor": StreamingExtractor(*front),
        }
        facts = {"tokenizer": tokenizer, "chunk_config": chunks, "blank_index": blank}
        return cls(modules, {**facts, "sample_rate": hparams["sample_rate"]}, {"device": "cpu"})

    @property
    def latency(self) -> float:
        """Seconds, at most, from the middle of a sound's frame until the text can have it: those of the windows that
        look ahead, and of the chunk that the frame begins."""
        properties, encoder = self.mods.fea_streaming_extractor.properties, self.mods.enc
        ahead = properties.window_size / 2 + (encoder.chunk_size(self.hparams.chunk_config) - 1) * properties.stride
        return ahead / self.sample_rate

    @property
    def tokens(self) -> list[int]:
        """The tokens of the stream so far."""
        return [span.token for span in self._path.spans]

    @property
    def words(self) -> list[Word]:
        """The words of the stream so far, or of the one that ended last, and when they were said."""
        stride = self.mods.fea_streaming_extractor.properties.stride
        return words_of_spans(
            self.tokenizer, self._path.spans, stride / self.sample_rate, 0.0, self._samples / self.sample_rate
        )

    def reset(self) -> None:
        """Forget the stream; the next piece begins another one."""
        self._stream: LogProbStream | None = None
        self._path = GreedySpans(self.hparams.blank_index)
        self._text, self._spelling, self._spelled, self._samples = "", SpellingContext(), 0, 0

    def add(self, wav: Any) -> str:
        """Take the next piece, (samples,) or (1, samples) with any number of samples, and return the text so far."""
        piece = self._checked(wav)
        if self._stream is None:
            self.reset()
            self._stream = LogProbStream(self.mods, self.hparams.chunk_config)
        self._samples += piece.shape[1]
        with self.inference_ctx:
            log_probs = self._stream.push(piece)
        return self._decode(log_probs)

    def finish(self) -> str:
        """End the stream, and return its whole text. The next piece begins another stream; until then :attr:`words`
        are those of the one that ended."""
        if self._stream is None:
            raise ValueError("The stream ended without any audio.")
        stream, self._stream = self._stream, None
        self._check_length(self._samples, "The stream")
        with self.inference_ctx:
            log_probs = stream.finish()
        return self._decode(log_probs)

    def _decode(self, log_probs: Tensor) -> str:
        """Decode frames greedily: each run of a token that is not the blank is one token."""
        self._path.push(log_probs[0])
        tokens = [span.token for span in self._path.spans[self._spelled :]]
        self._spelled += len(tokens)
        self._text += spell_next(self.tokenizer, tokens, self._spelling)
        return self._text

    @torch.no_grad()
    def recognize(self, wav: Any) -> str:
        """Recognize a whole waveform, (samples,) or (1, samples), at once, and return its text; the stream is left
        unchanged."""
        wav = self._checked(wav)
        self._check_length(wav.shape[1], "The waveform")
        with self.inference_ctx:
            log_probs = self.mods.encoder(wav, torch.ones(1, device=self.device))
        path = GreedySpans(self.hparams.blank_index)
        path.push(log_probs[0])
        return spell(self.tokenizer, [span.token for span in path.spans])

    def forward(self, wav: Any) -> str:
        """Recognize a whole waveform: :meth:`recognize`."""
        return self.recognize(wav)

    def _check_length(self, samples: int, name: str) -> None:
        encoder: Any = self.mods.encoder
        needed = max(1, (encoder.CNN.min_frames - 1) * encoder.compute_features.compute_STFT.hop_length)
        if samples < needed:
            raise ValueError(
                f"{name} has {samples} samples, but the recognizer needs at least {needed} at {self.sample_rate} Hz, "
                f"{needed / self.sample_rate:.2g} s."
            )

    def _checked(self, wav: Any) -> Tensor:
        piece = as_float(wav, "The piece")
        piece = piece[None] if piece.dim() == 1 else piece
        if piece.dim() != 2 or len(piece) != 1:
            raise ValueError(
                f"The piece has shape {tuple(piece.shape)}, but must be (samples,) or (1, samples), at "
                f"{self.sample_rate} Hz: mix channels down first."
            )
        check_finite(piece, "The piece")
        return piece.to(self.device)


def check_streams(streaming: bool, causal: bool, encoder: Any) -> None:
    """Make sure that a recognizer of ``Encoder`` can run on a stream; a ValueError says what to train if it cannot."""
    if not causal and not streaming:
        raise ValueError(
            "The recognizer needs the whole utterance: train one with --streaming True, or with --causal True."
        )
    if not isinstance(encoder.transformer.encoder, ConmambaEncoder):
        raise ValueError(
            f"The encoder is a {type(encoder.transformer.encoder).__name__}, which has no state of constant size: use "
            "encoder_module: conmamba."
        )
