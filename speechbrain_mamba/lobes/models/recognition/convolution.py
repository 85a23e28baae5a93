"""SpeechBrain's convolutions for recognition, safe for padded batches and streams: same arguments and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import convolution
from speechbrain.lobes.models.transformer import Conformer
from speechbrain.nnet.CNN import Conv2d, get_padding_elem
from torch import Tensor, nn

from speechbrain_mamba.nnet.few_rows import plain_linear
from speechbrain_mamba.nnet.grid_convolutions import class_of, pad_for
from speechbrain_mamba.nnet.plain_parts import norm_part
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.ops import absolute_lengths, depthwise_conv1d, mask_frames
from speechbrain_mamba.utils._compat import has_forward_hooks


class ConvolutionModule(Conformer.ConvolutionModule):
    """The convolution module of Conformer (arXiv 2005.08100, section 2.2) with lengths, chunks and a state.

    SpeechBrain's module masks its output only: padding frames, which the bias before the convolution makes non-zero,
    reach the last valid ones. Here the convolution never sees a frame past the length.

    Arguments
    ---------
    input_size, bias, activation, dropout
        As in SpeechBrain's module.
    kernel_size : int
        Width of the depthwise convolution, in frames; must be odd unless ``causal``.
    causal : bool
        Whether a frame sees no later frames.

    Raises
    ------
    ValueError
        When the kernel of a convolution that is not causal has an even size.

    Example
    -------
    >>> module = ConvolutionModule(8, kernel_size=5)
    >>> x = torch.randn(2, 10, 8)
    >>> y = module(x, lengths=torch.tensor([10, 6]))
    >>> torch.allclose(y[1:, :6], module(x[1:, :6]), atol=1e-6)
    True
    """

    layer_norm: nn.Module

    def __init__(
        self,
        input_size: int,
        kernel_size: int = 31,
        bias: bool = True,
        activation: Callable[[], nn.Module] = Conformer.Swish,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        if not causal and kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, but a convolution that looks both ways needs an odd one.")
        super().__init__(input_size, kernel_size, bias, activation, dropout, causal)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk_size: int | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the module over a sequence.

        Arguments
        ---------
        x, lengths, return_state
            As in :meth:`ConmambaEncoderLayer.forward()
            <speechbrain_mamba.lobes.models.recognition.conmamba_layer.ConmambaEncoderLayer.forward>`; frames past the
            lengths give zeros.
        chunk_size : int, optional
            Frames per chunk. A frame sees earlier ones in all chunks, and later ones in its own chunk only: the dynamic
            chunk convolution of arXiv 2304.09325. By default there are no chunks; causal modules ignore them.
        state : Tensor, optional
            State to resume from, returned by an earlier call: the frames before ``x`` as the depthwise convolution sees
            them, (batch, input_size, padding).

        Returns
        -------
        Tensor
            Output like ``x``; and with ``return_state`` the state.
        """
        time = x.shape[1]
        x = mask_frames(self._widen(self.layer_norm(x)), lengths)
        streams = self.causal or return_state or state is not None
        if not streams and chunk_size is None:
            return mask_frames(self._finish(self._convolve(x, self.padding, self.padding)), lengths)
        left = x.new_zeros(x.shape[0], self.padding, x.shape[2]) if state is None else state.to(x.dtype).transpose(1, 2)
        x = torch.cat([left, x], 1)
        if self.causal or chunk_size is None:
            y = self._convolve(x, 0, 0 if self.causal else self.padding)
        else:
            y = self._convolve_chunks(x, time, chunk_size)
        y = mask_frames(self._finish(y), lengths)
        return (y, self._last_frames(x, lengths)) if return_state else y

    def absorb_norm(self) -> None:
        """Leave the normalization to the projection that follows, if that was reduced: called when a model's weights
        were."""
        projection = self.bottleneck[0]
        if isinstance(projection, ReducedLinear) and projection.absorb(self.layer_norm):
            self.layer_norm = nn.Identity()

    def _widen(self, x: Tensor) -> Tensor:
        """The first projection and its gate. On a CPU the convolution of width 1 is a product of rows as they lie."""
        pointwise, gate = self.bottleneck
        known = class_of(pointwise) is nn.Conv1d and type(gate) is nn.GLU and x.device.type == "cpu"
        if known and not any(map(has_forward_hooks, self.bottleneck.modules())):
            return F.glu(F.linear(x, pointwise.weight.squeeze(2), pointwise.bias), -1)
        return self.bottleneck(x.transpose(1, 2)).transpose(1, 2)

    def _convolve(self, x: Tensor, before: int, after: int) -> Tensor:
        return depthwise_conv1d(x, self.conv.weight, self.conv.bias, before=before, after=after)

    def _finish(self, x: Tensor) -> Tensor:
        """What follows the convolution: normalization, activation and projection. Where the projection's weight was
        reduced, what rounds its inputs does the others too."""
        norm, activation, projection, dropout = self.after_conv
        known = norm_part(norm, activation) if isinstance(projection, ReducedLinear) else None
        if known is None or plain_linear(projection) is None or has_forward_hooks(self.after_conv):
            return self.after_conv(x)
        return dropout(projection.run(x, known))

    def _convolve_chunks(self, x: Tensor, time: int, chunk_size: int) -> Tensor:
        """Convolve (batch, padding + time, channels): each chunk sees the frames before it, and zeros after it."""
        batch, _, channels = x.shape
        x = F.pad(x, (0, 0, 0, -time % chunk_size)).unfold(1, self.padding + chunk_size, chunk_size)
        y = self._convolve(x.flatten(0, 1).transpose(1, 2), 0, self.padding)
        return y.reshape(batch, -1, channels).narrow(1, 0, time)  # a slice would ask whether all is taken

    def _last_frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Take the last valid frames of (batch, padding + time, channels) that the convolution looks back on."""
        if lengths is None:
            return x[:, x.shape[1] - self.padding :].transpose(1, 2)
        index = lengths.to(x.device)[:, None] + torch.arange(self.padding, device=x.device)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[2])).transpose(1, 2)


class ConvolutionFrontEnd(convolution.ConvolutionFrontEnd):
    """SpeechBrain's ``ConvolutionFrontEnd`` (strided convolutions over time and frequency) with lengths.

    SpeechBrain's front end reflects the end of the padded batch, so that the last valid frames of shorter examples see
    their padding. Given ``wav_lens``, each example is reflected at its own end, as it is on its own.

    Arguments
    ---------
    *args, **kwargs
        As in SpeechBrain's class.

    Example
    -------
    >>> frontend = ConvolutionFrontEnd((8, 10, 80), 2, 1, (64, 32), (3, 3), (2, 2), residuals=(False, False)).eval()
    >>> feats, wav_lens = torch.randn(2, 201, 80), torch.tensor([1.0, 101 / 201])
    >>> y = frontend(feats, wav_lens)
    >>> y.shape, absolute_lengths(frontend.output_lens(wav_lens, 201), y.shape[1])
    (torch.Size([2, 51, 20, 32]), tensor([51, 26]))
    >>> torch.allclose(y[1:, :26], frontend(feats[1:, :101]), atol=1e-5)
    True
    """

    def forward(self, x: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Run the convolutions.

        Arguments
        ---------
        x, wav_lens : Tensor
            Features (batch, time, features), and optionally their lengths relative to the longest, floats (batch,).

        Returns
        -------
        Tensor
            Output (batch, frames, features, channels), with fewer frames and features than the input; zero past each
            length if ``wav_lens`` are given.

        Raises
        ------
        ValueError
            When there are fewer frames than a convolution reflects, or lengths are given and a convolution is not a
            2-dimensional one that pads by reflection.
        """
        lengths = absolute_lengths(wav_lens, x.shape[1], x.device)
        x = mask_frames(x, lengths)
        for block in self.values():
            x, lengths = self._run_block(block, x, lengths)
        return mask_frames(x, lengths)

    @property
    def min_frames(self) -> int:
        """The fewest feature frames that it takes: each convolution needs more than it reflects."""
        frames = 1
        for block in reversed(list(self.values())):
            for layer in reversed(list(block.convs.values())):
                if isinstance(layer, Conv2d):
                    frames = max((frames - 1) * layer.stride[-1] + 1, layer.kernel_size[-1] // 2 + 1)
        return frames

    @property
    def stride(self) -> int:
        """Feature frames from one output frame to the next."""
        blocks: Any = self.values()
        return math.prod(
            layer.stride[-1] for block in blocks for layer in block.convs.values() if isinstance(layer, Conv2d)
        )

    def output_lens(self, wav_lens: Tensor | None, time: int) -> Any:
        """Compute the relative lengths of the output, which the encoder takes.

        They differ from those of the features, as each convolution rounds up: 101 of 2001 frames give 26 of 501, but
        the relative length of the input would count only 25. ``wav_lens`` are as in :meth:`forward`, ``time`` is the
        number of frames in the padded features. Returns floats (batch,), or None if ``wav_lens`` is None.
        """
        if wav_lens is None:
            return None
        lengths = absolute_lengths(wav_lens, time)
        for block in self.values():
            for layer in block.convs.values():
                if isinstance(layer, Conv2d):
                    lengths, time = _after_stride(lengths, layer), _after_stride(time, layer)
        return lengths / time

    @staticmethod
    def _run_block(block: Any, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shortcut = x
        for layer in block.convs.values():
            if isinstance(layer, Conv2d):
                x, lengths = _convolve_padded(x, lengths, layer)
            elif lengths is not None and "Conv" in type(layer).__name__:
                raise ValueError(f"wav_lens are given, but {type(layer).__name__} takes no lengths: use Conv2d.")
            else:
                x = layer(x)
        if block.reduce_conv:
            x = block.drop(x + block.reduce_conv(shortcut))
        return x, lengths


def _after_stride(frames: Any, conv: Conv2d) -> Any:
    """Count the output frames of a convolution for a number of input frames, an int or integers (batch,)."""
    return (frames + conv.stride[-1] - 1) // conv.stride[-1]


def _convolve_padded(x: Tensor, lengths: Tensor | None, conv: Conv2d) -> tuple[Tensor, Tensor | None]:
    """Convolve; the reflection of each example's last frames follows its own end."""
    frames, border = x.shape[1], conv.kernel_size[-1] // 2
    reflects = conv.padding == "same" and conv.padding_mode == "reflect"
    if reflects and frames <= border:
        raise ValueError(f"A convolution has {frames} frames, but needs more than the {border} that it reflects.")
    if lengths is None:
        return _convolve(x, conv), None
    if not reflects or conv.dilation[-1] != 1:
        raise ValueError("wav_lens are given, but the convolutions do not pad by reflection to the same size.")
    x = _reflect_ends(x, lengths, border)
    return _convolve(x, conv)[:, : _after_stride(frames, conv)], _after_stride(lengths, conv)


def _convolve(x: Tensor, conv: Conv2d) -> Tensor:
    """What ``conv`` gives for (batch, time, features[, channels]), whose memory is that of an image with channels last.

    SpeechBrain's forward swaps time and channels before and after it, which copies the largest tensors of a recognizer
    four times, in an order that caches cannot serve. Here the kernel is what changes sides.
    """
    if conv.padding != "same" or conv.skip_transpose or conv.swap or conv.max_norm is not None:
        return conv(x)
    image = (x.unsqueeze(-1) if conv.unsqueeze else x).permute(0, 3, 1, 2)
    features, time = (
        get_padding_elem(conv.in_channels, conv.stride[axis], conv.kernel_size[axis], conv.dilation[axis])
        for axis in (-2, -1)
    )
    with torch.autocast("cpu", enabled=False):  # it would pad in float32, by two copies of the image
        image = F.pad(image, (*features, *time), mode=conv.padding_mode)
    frames = (image.shape[2] - conv.dilation[-1] * (conv.kernel_size[-1] - 1) - 1) // conv.stride[-1] + 1
    inner = conv.conv
    image = pad_for(inner, image, 2)
    stride, dilation = (conv.stride[-1], conv.stride[-2]), (conv.dilation[-1], conv.dilation[-2])
    y = F.conv2d(image, inner.weight.transpose(2, 3), inner.bias, stride, 0, dilation, inner.groups)
    y = y.narrow(2, 0, frames).permute(0, 2, 3, 1)
    return y.squeeze(-1) if conv.unsqueeze and y.shape[-1] == 1 else y


def _reflect_ends(x: Tensor, lengths: Tensor, border: int) -> Tensor:
    """Append frames to (batch, time, ...), and write the reflection of each example's last ones after its own end."""
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, border))
    example = torch.arange(x.shape[0], device=x.device)[:, None]
    beyond = lengths[:, None] + torch.arange(border, device=x.device)
    mirrored = (2 * (lengths[:, None] - 1) - beyond).clamp(min=0)
    # out of place: the gradient is scattered for these few frames only
    return x.index_put((example, beyond), x[example, mirrored])
