"""A recognizer on windows of a stream, each of which brings as many frames as are encoded together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from speechbrain_mamba.inference.programs.program import fill_state, name_states
from speechbrain_mamba.ops import absolute_lengths, mask_frames


class WindowsOfSpeech(nn.Module):
    """From windows (batch, :attr:`window`) of a stream, each :attr:`step` samples after the one before, their valid
    samples (batch,), and states, to log-probabilities (batch, frames, tokens), how many of these frames are valid
    (batch,), and the states after them.

    The first window begins :attr:`before` samples before the stream, with zeros. A stream of n samples has
    n // step + 1 windows, those at its end filled with zeros. The frames of all windows are those of the whole
    recording.

    Windows overlap by what the front end sees on both sides. Each window computes these features again, of which the
    first ones are dropped; at the beginning of a stream there are none, and the front end reflects the first features.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        Those of a recognizer that can run on a stream.
    chunk_size : int
        Frames that are encoded together.

    Raises
    ------
    ValueError
        When the front end sees more before a frame than a window brings, or the encoder adds positions.
    """

    def __init__(self, modules: Mapping[str, nn.Module], chunk_size: int) -> None:
        super().__init__()
        extractor: Any = modules["fea_streaming_extractor"]
        wrapper: Any = modules["enc"]
        self.transformer: Any = wrapper.encoder.transformer
        self.projection: Any = modules["proj_enc"]
        front = extractor.make_streaming_context()
        self.compute_features: Any = copy.deepcopy(front.compute_features)
        self.compute_features.compute_STFT.center = False
        self.normalize, self.frontend = extractor.normalize, extractor.CNN
        self.hop, self.top_db, self.warm, self.chunk = front.hop, front.top_db, front.warm_frames, chunk_size
        needed = chunk_size
        for border, stride in reversed(front.convs):
            needed = (needed - 1) * stride + border + 1
        self.new, self.context = chunk_size * front.stride, self.warm * front.stride
        self.features = self.context + needed
        self.before = self.context * self.hop + front.half_window
        self.step, self.window = self.new * self.hop, (self.features - 1) * self.hop + 2 * front.half_window
        if self.new <= self.context:
            raise ValueError(
                f"The recognizer encodes {chunk_size} frames together, but its front end sees {self.warm} before a "
                "frame: it has to be trained with larger chunks to be deployed for streams."
            )
        if self.transformer.attention_type == "regularMHA" and self.transformer.positional_encoding_type is not None:
            raise ValueError("The encoder adds positions, which end: a stream cannot be deployed.")
        self.template = self.init_state(1)

    def init_state(self, batch: int) -> list[Any]:
        """The states before the first window: zeros."""
        start: list[Any] = [torch.zeros(batch, dtype=torch.long), torch.zeros(batch, 1, 1)]
        x = torch.zeros(batch, self.chunk, self.projection.w.in_features)
        with torch.no_grad():
            layers = self._encode(x, torch.full((batch,), self.chunk), [None] * len(self.transformer.encoder.layers))[1]
        return [*start, fill_state(layers, iter([torch.zeros_like(t) for t in name_states(layers).values()]))]

    def forward(self, window: Tensor, lengths: Tensor, states: list[Tensor]) -> tuple[Any, ...]:
        """Recognize the next window."""
        position, loudest, layers = fill_state(self.template, iter(states))
        first = position == 0
        skipped = torch.where(first, self.context, 0)  # features before the stream
        feats = Fbank.forward(self.compute_features, mask_frames(window, lengths))
        feats, loudest = self._clip(_from(feats, skipped), first, loudest)
        valid = self.context + (lengths - self.before) // self.hop + 1
        valid = torch.minimum(valid, torch.full_like(valid, self.features)) - skipped
        relative = valid.clamp(min=0).double() / self.features
        x = self.frontend(self.normalize(feats), relative)
        count = absolute_lengths(self.frontend.output_lens(relative, self.features), x.shape[1])
        warm = torch.where(first, 0, self.warm)
        x, frames = _from(x, warm)[:, : self.chunk], (count - warm).clamp(0, self.chunk)
        encoded, layers = self._encode(self.transformer.custom_src_module(x.flatten(2)), frames, layers)
        log_probs = self.projection(encoded).log_softmax(-1)
        after = [position + frames, loudest, layers]
        return log_probs, frames, list(name_states(after).values())

    def _clip(self, feats: Tensor, first: Tensor, loudest: Tensor) -> tuple[Tensor, Tensor]:
        """Clip energies below the loudest so far; also returns the loudest before the next window."""
        frames = torch.arange(self.features)
        loud = feats.amax(2)
        so_far = loud[:, None].masked_fill(frames > frames[:, None], float("-inf")).amax(2)[..., None]
        so_far = torch.maximum(so_far, torch.where(first[:, None, None], float("-inf"), loudest))
        last = torch.where(first, self.new - self.context, self.new) - 1
        return torch.maximum(feats, so_far - self.top_db), so_far.gather(1, last[:, None, None])

    def _encode(self, x: Tensor, frames: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        encoder, after = self.transformer.encoder, []
        x = mask_frames(x, frames)
        for layer, state in zip(encoder.layers, states):
            x, state = layer(x, frames, chunk_size=self.chunk, state=state, return_state=True)
            after.append(state)
        return encoder.norm(x), after


def _from(x: Tensor, start: Tensor) -> Tensor:
    """Frames of (batch, time, ...) from a start of each example, integers (batch,); the last one is repeated."""
    index = (torch.arange(x.shape[1]) + start[:, None]).clamp(max=x.shape[1] - 1)
    return x.gather(1, index.reshape(index.shape + (1,) * (x.dim() - 2)).expand(x.shape))


def stream_facts(module: WindowsOfSpeech) -> dict[str, Any]:
    """What ``deployed.json`` says of the windows."""
    windows = {"before": module.before, "samples": module.window, "step": module.step}
    return {"windows": windows, "states_begin_with": 0}
