"""Recognition of speech while it is being spoken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from sentencepiece import SentencePieceProcessor
from speechbrain.decoders.ctc import ctc_greedy_decode
from torch import Tensor

from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from speechbrain_mamba.text.tokenizer import load_tokenizer, spell
from speechbrain_mamba.training.averaging import best_checkpoints, load_average
from speechbrain_mamba.utils.hparams import read_hparams


class StreamingRecognizer:
    """A CTC recognizer for audio that comes in pieces: the text grows with each of them.

    Work and memory per piece do not grow with the length of the stream, and the final text equals the one that
    :meth:`recognize` gives for the whole waveform. The encoder must be a ConMamba that is causal, or was trained to see
    chunk by chunk.

    Arguments
    ---------
    hparams : mapping
        Hyper-parameters of a trained recognizer, loaded: ``modules`` (``CNN``, ``Encoder``, ``ctc_lin`` and
        ``normalize``), ``compute_features``, ``sample_rate``, ``blank_index``, ``streaming``, ``chunk_config`` and
        ``chunk_size``.
    tokenizer : sentencepiece.SentencePieceProcessor
        Its tokenizer.

    Example
    -------
    After ``recipes/asr/train.py`` has trained with the same file::

        recognizer = StreamingRecognizer.from_hparams("hparams/asr/mini_conmamba_ctc_streaming.yaml")
        for piece in pieces:  # (1, samples) each
            print(recognizer.add(piece))
        print(recognizer.finish())
    """

    def __init__(self, hparams: Mapping[str, Any], tokenizer: SentencePieceProcessor) -> None:
        self.modules, self.compute_features = hparams["modules"], hparams["compute_features"]
        for module in self.modules.values():
            module.eval()
        self.tokenizer, self.sample_rate, self.blank = tokenizer, hparams["sample_rate"], hparams["blank_index"]
        self.chunk_config, self.is_chunked = hparams["chunk_config"], hparams["streaming"]
        self.chunk_size = hparams["chunk_size"] if self.is_chunked else 1
        self.reset()

    @classmethod
    def from_hparams(
        cls, hparams_file: str | os.PathLike, overrides: str | Mapping[str, Any] | None = None
    ) -> StreamingRecognizer:
        """Load a trained recognizer, with the averaged weights of its best checkpoints.

        Arguments
        ---------
        hparams_file : str or Path
            The hyper-parameter file that it was trained with.
        overrides : str or dict, optional
            The values that replaced those of the file in the training.

        Raises
        ------
        ValueError, FileNotFoundError
            When the recognizer cannot run on a stream, and when it has not been trained.
        """
        hparams = load_hyperpyyaml(read_hparams(hparams_file, overrides))
        if not hparams["causal"] and not hparams["streaming"]:
            raise ValueError(
                "The recognizer needs the whole utterance: train one with --streaming True, or with --causal True."
            )
        if hparams["encoder_module"] != "conmamba":
            raise ValueError(
                f"encoder_module is '{hparams['encoder_module']}', which has no state of constant size: use conmamba."
            )
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
        return cls(hparams, load_tokenizer(folder, hparams["output_neurons"], hparams["save_folder"]))

    def reset(self) -> None:
        """Forget the stream; the next piece begins another one."""
        self.frontend = StreamingFrontEnd(self.compute_features, self.modules["normalize"], self.modules["CNN"]).eval()
        self.context = self.modules["Encoder"].make_streaming_context(self.chunk_config)
        self.waiting: list[Tensor] = []  # frames that do not fill a chunk yet
        self.tokens: list[int] = []
        self.last = self.blank

    @torch.no_grad()
    def add(self, wav: Tensor) -> str:
        """Take the next piece, (1, samples) with any number of samples, and return the text so far."""
        frames = torch.cat([*self.waiting, self.frontend(wav)], 1)
        ready = frames.shape[1] // self.chunk_size * self.chunk_size
        self.waiting = [frames[:, ready:]]
        return self._decode(frames[:, :ready])

    @torch.no_grad()
    def finish(self) -> str:
        """End the stream, and return its whole text. The next piece begins another stream."""
        text = self._decode(torch.cat([*self.waiting, self.frontend.finish()], 1))
        self.reset()
        return text

    def _decode(self, frames: Tensor) -> str:
        """Decode frames of the front end, greedily: each run of a token that is not the blank is one token."""
        if frames.shape[1]:
            encoder_out = self.modules["Encoder"].forward_streaming(frames, self.context)
            for token in self.modules["ctc_lin"](encoder_out)[0].argmax(-1).tolist():
                if token not in (self.blank, self.last):
                    self.tokens.append(token)
                self.last = token
        return spell(self.tokenizer, self.tokens)

    @torch.no_grad()
    def recognize(self, wav: Tensor) -> str:
        """Recognize a whole waveform (1, samples) at once, and return its text; the stream is left unchanged."""
        src = self.modules["CNN"](self.modules["normalize"](self.compute_features(wav)))
        chunks = self.chunk_config if self.is_chunked else None
        log_probs = self.modules["ctc_lin"](self.modules["Encoder"](src, dynchunktrain_config=chunks)).log_softmax(-1)
        return spell(self.tokenizer, ctc_greedy_decode(log_probs, torch.ones(1), self.blank)[0])
