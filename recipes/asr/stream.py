#!/usr/bin/env python3
"""Recognise a file as if it were being spoken: fed in pieces to a recogniser with CTC, it prints growing text.

    python recipes/asr/train_ctc.py hparams/asr/mini_conmamba_ctc_streaming.yaml
    python recipes/asr/stream.py hparams/asr/mini_conmamba_ctc_streaming.yaml \
        --wav data/mini_speech_16k/test/300/1/300-1-0000.wav

The recogniser hears chunk by chunk (``streaming: True``) or frame by frame (``causal: True``); options are given as
they were for its training. In the end the text is compared with what the same model recognises of the whole file at
once.
"""

import argparse
import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from recognition import best_checkpoints
from speechbrain.utils.checkpoints import average_checkpoints

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from speechbrain_mamba.text.tokenizer import load_tokenizer
from speechbrain_mamba.utils.hparams import read_hparams


class StreamingRecogniser:
    """Greedy CTC over a stream: text grows by what each piece adds."""

    def __init__(self, hparams, tokenizer):
        self.modules, self.tokenizer, self.blank = hparams["modules"], tokenizer, hparams["blank_index"]
        self.frontend = StreamingFrontEnd(
            hparams["compute_features"], self.modules["normalize"], self.modules["CNN"]
        ).eval()
        self.context = self.modules["Encoder"].make_streaming_context(hparams["chunk_config"])
        self.chunk_size = hparams["chunk_size"] if hparams["streaming"] else 1
        self.waiting = []  # frames that make no whole chunk yet
        self.tokens, self.last = [], self.blank

    @torch.no_grad()
    def add(self, wav, is_last=False):
        """Take a piece, (1, samples), and return the text so far."""
        frames = torch.cat([*self.waiting, self.frontend(wav), *([self.frontend.finish()] if is_last else [])], 1)
        ready = frames.shape[1] if is_last else frames.shape[1] // self.chunk_size * self.chunk_size
        self.waiting = [frames[:, ready:]]
        if ready:
            encoder_out = self.modules["Encoder"].forward_streaming(frames[:, :ready], self.context)
            for token in self.modules["ctc_lin"](encoder_out)[0].argmax(-1).tolist():
                if token not in (self.blank, self.last):
                    self.tokens.append(token)
                self.last = token
        return self.tokenizer.decode(self.tokens)


@torch.no_grad()
def recognise_whole(hparams, tokenizer, wav):
    """The text of a whole waveform, (1, samples)."""
    modules = hparams["modules"]
    src = modules["CNN"](modules["normalize"](hparams["compute_features"](wav)))
    chunks = hparams["chunk_config"] if hparams["streaming"] else None
    log_probs = modules["ctc_lin"](modules["Encoder"](src, dynchunktrain_config=chunks)).log_softmax(-1)
    tokens = sb.decoders.ctc_greedy_decode(log_probs, torch.ones(1), hparams["blank_index"])
    return tokenizer.decode(tokens[0])


def load(hparams_file, overrides):
    """A recogniser that has been trained, with the mean of its best checkpoints' weights."""
    hparams = load_hyperpyyaml(read_hparams(hparams_file, overrides))
    if not hparams["causal"] and not hparams["streaming"]:
        raise ValueError(
            "The recogniser has to hear all before it writes: train one with --streaming True, or with --causal True."
        )
    if hparams["encoder_module"] != "conmamba":
        raise ValueError(
            f"encoder_module is '{hparams['encoder_module']}', which has no state of constant size: use conmamba."
        )
    checkpoints = best_checkpoints(hparams["checkpointer"], "WER", hparams["avg_checkpoints"])
    if not checkpoints:
        raise FileNotFoundError(f"There is no checkpoint in '{hparams['save_folder']}': train the recogniser first.")
    hparams["checkpointer"].load_checkpoint(checkpoints[0])
    hparams["model"].load_state_dict(average_checkpoints(checkpoints, recoverable_name="model"))
    for module in hparams["modules"].values():
        module.eval()
    folder = hparams["tokenizer_folder"] or hparams["save_folder"]
    return hparams, load_tokenizer(folder, hparams["output_neurons"], hparams["save_folder"])


def main():
    """Read the command line, recognise, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav", required=True, help="the file")
    parser.add_argument("--milliseconds", type=int, default=320, help="length of a piece")
    arguments, rest = parser.parse_known_args(sys.argv[1:])
    hparams_file, _, overrides = sb.parse_arguments(rest)
    hparams, tokenizer = load(hparams_file, overrides)
    rate = hparams["sample_rate"]
    wav = read_audio(arguments.wav, rate)[None]
    pieces = wav.split(max(1, rate * arguments.milliseconds // 1000), 1)
    recogniser = StreamingRecogniser(hparams, tokenizer)
    heard = 0
    for index, piece in enumerate(pieces):
        heard += piece.shape[1]
        text = recogniser.add(piece, is_last=index == len(pieces) - 1)
        print(f"{heard / rate:6.2f} s  {text}")
    whole = recognise_whole(hparams, tokenizer, wav)
    print(f"{Path(arguments.wav).name}, all at once: {whole}\n{'equal' if whole == text else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
