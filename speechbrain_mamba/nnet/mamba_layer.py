"""What the layers of Mamba and Mamba-2 share: projections in and out, a state, and one or two directions of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.kept import KeptForSteps
from speechbrain_mamba.nnet.pieces import find_groups, find_pieces, lengths_in
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.ops import Filters, causal_conv1d, causal_conv1d_update, mask_frames
from speechbrain_mamba.ops.checks import check_lengths
from speechbrain_mamba.ops.registry import NO_TORCHSCRIPT

MambaState = dict[str, Tensor]
"""The state of a causal layer between two frames.

``conv``, the last inputs of the convolution, is (batch, channels, d_conv - 1), and ``ssm``, the state of the scan, of
each of its channels d_state numbers in float32 or float64. :meth:`CausalLayer.init_state` has the shapes.
"""

Parts = tuple[Any, ...]
"""Parts of the input projection, see :class:`MambaLayer`. One that a call does not read may be None."""


def draw_step_bias(count: int, dt_min: float, dt_max: float, dt_init_floor: float) -> Tensor:
    """Draw biases (count,) whose softplus, the step, is log-uniform in a range but not below a floor."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.rand(count)
    if step.is_meta:  # of a layer that is only counted: torch would import its compiler to compute no numbers
        return step
    step = torch.exp(step * (high - low) + low).clamp(min=dt_init_floor)
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus


class ScaledLinear(nn.Linear):
    """A linear layer whose initial weights, Kaiming-uniform(a=sqrt 5), are scaled: the end of a residual branch.

    Arguments
    ---------
    in_features, out_features : int
        Sizes.
    bias : bool
        Whether to add a bias.
    init_scale : float
        Factor on the initial weights.

    Example
    -------
    >>> bool(ScaledLinear(4, 4, init_scale=0.0).weight.any())
    False
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init_scale: float = 1.0):
        self.init_scale = init_scale
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(self.init_scale)


class MambaLayer(nn.Module):
    """The common part of all layers.

    ``in_proj`` maps the input to ``parts``: the input of the convolution, then what the scan and the output need beside
    it. Each is (batch, time, channels), or (batch, channels) for a single frame. Convolution and scan have their own
    parameters for each direction of time; ``out_proj`` serves both.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    d_state : int
        States per inner channel.
    d_conv : int
        Width of the convolution, in frames.
    expand : float
        Inner channels per channel of ``d_model``.
    masks_input : bool
        Whether the layer sets the frames past the lengths to zero first.
    """

    suffixes: tuple[str, ...]
    """The ends of the names of each direction's parameters."""
    _scan_op: Callable[..., Any]
    """The scan; it takes what :meth:`_scan_arguments` returns."""

    in_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: float, masks_input: bool):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.masks_input = masks_input
        self._kept = KeptForSteps()
        self.d_inner = int(expand * d_model)

    def __prepare_scriptable__(self) -> MambaLayer:
        """Called by ``torch.jit.script``, also for the modules that hold the layer."""
        raise ValueError(f"torch.jit.script meets {type(self).__name__}: {NO_TORCHSCRIPT}")

    def keep_for_steps(self, modules: tuple[nn.Module, ...], make: Callable[[], Any]) -> Any:
        """What ``make()`` returns, which depends on the parameters of modules, such as a block that holds this layer;
        kept while these do not change, and until a new sequence begins. See
        :class:`~speechbrain_mamba.nnet.kept.KeptForSteps`."""
        return self._kept.get(modules, make)

    def _add_convolution(self, suffix: str, channels: int, bias: bool) -> None:
        """Register the convolution of one direction; the names of the reverse direction carry a suffix."""
        self.register_module(f"conv1d{suffix}", nn.Conv1d(channels, channels, self.d_conv, groups=channels, bias=bias))

    def _filters(self, suffix: str) -> Filters:
        """The convolution of one direction, as the operations take it."""
        conv1d = getattr(self, f"conv1d{suffix}")
        return Filters(conv1d.weight.squeeze(1), conv1d.bias)

    def _rates(self, suffix: str) -> Tensor:
        """The scan's A, negative, in float32 or float64: what decays with it must not be rounded before."""
        A_log = self.get_parameter(f"A{suffix}_log")
        return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))

    def _project_in(self, x: Tensor) -> Parts:
        """The parts of the input projection; the first goes through the convolution."""
        raise NotImplementedError

    def _scan_arguments(self, convolved: Tensor, parts: Parts, suffix: str) -> tuple:
        """The positional arguments of one direction's scan and, of a single frame, of its step after the state."""
        raise NotImplementedError

    def _scan_options(self) -> dict[str, Any]:
        """Further options of the scan."""
        return {}

    def _project_out(self, y: Tensor, parts: Parts) -> Tensor:
        """The output, from the scan's."""
        raise NotImplementedError

    def _fills_padding(self) -> bool:
        """Whether the output projection may leave frames past the lengths that are not zero."""
        return self.out_proj.bias is not None

    def _mask_input(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return mask_frames(x, lengths) if self.masks_input else x

    def _finish(self, y: Tensor, parts: Parts, lengths: Tensor | None) -> Tensor:
        """The output, zero past the lengths."""
        y = self._project_out(y, parts)
        return mask_frames(y, lengths) if self._fills_padding() else y

    def _scan(
        self,
        parts: Parts,
        lengths: Tensor | None,
        suffix: str = "",
        state: MambaState | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, MambaState]:
        """Convolution and scan of one direction, from a state; returns the scan's output and the state after it."""
        convolved, conv = causal_conv1d(
            parts[0], *self._filters(suffix), "silu", lengths=lengths, reverse=reverse,
            initial_state=None if state is None else state["conv"], return_final_state=True,
        )  # fmt: skip
        y, ssm = self._scan_op(
            *self._scan_arguments(convolved, parts, suffix), lengths=lengths, reverse=reverse,
            initial_state=None if state is None else state["ssm"], return_last_state=True, **self._scan_options(),
        )  # fmt: skip
        return y, {"conv": conv, "ssm": ssm}


class CausalLayer(MambaLayer):
    """A layer that sees the past only.

    It can run in chunks or step by step from a state, with the same output as in one go.
    """

    suffixes = ("",)
    _step_op: Callable[..., tuple[Tensor, Tensor]]
    """One step of the scan, which takes a state before the scan's arguments."""

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: MambaState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        state : dict, optional
            State to start from, returned by :meth:`init_state` or an earlier call.
        return_state : bool
            Whether to return the state after each example's last valid frame too.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        self._kept.clear()
        lengths = check_lengths(type(self).__name__, lengths, x.shape[0], x.shape[1], x.device)
        parts = self._project_in(self._mask_input(x, lengths))
        y, state = self._scan(parts, lengths, state=state)
        y = self._finish(y, parts, lengths)
        return (y, state) if return_state else y

    def outputs(
        self, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Run the layer over pieces of frames: :meth:`BidirectionalLayer.outputs`, for one direction."""
        state = None
        for piece in pieces:
            y, state = self(read(piece), lengths_in(piece, lengths), state=state, return_state=True)
            yield piece, y

    def _state_shapes(self) -> tuple[int, tuple[int, ...]]:
        """Channels of the convolution, and the shape of the scan's state without its batch."""
        raise NotImplementedError

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """The state before the first frame.

        Arguments
        ---------
        batch_size : int
            Number of examples.
        device : torch.device, optional
            Device; that of the parameters by default.
        dtype : torch.dtype, optional
            Type of the convolution's state; that of the parameters by default. The scan's state is float32, or float64
            for float64.

        Returns
        -------
        dict of str to Tensor
            ``conv`` (batch, channels of the convolution, d_conv - 1) and ``ssm``: (batch, d_inner, d_state) in Mamba,
            (batch, heads, headdim, d_state) in Mamba-2. The convolution has d_inner channels in Mamba, and
            d_ssm + 2 * ngroups * d_state in Mamba-2.
        """
        self._kept.clear()
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        scan_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        channels, shape = self._state_shapes()
        return {
            "conv": torch.zeros(batch_size, channels, self.d_conv - 1, device=device, dtype=dtype),
            "ssm": torch.zeros(batch_size, *shape, device=device, dtype=scan_dtype),
        }

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Run the layer over one frame.

        Arguments
        ---------
        x_t : Tensor
            Input frame (batch, d_model).
        state : dict
            State before the frame.

        Returns
        -------
        y_t : Tensor
            Output frame (batch, d_model).
        state : dict
            State after the frame; the given one is not changed.
        """
        parts = self._project_in(x_t)
        convolved, conv = causal_conv1d_update(parts[0], state["conv"], *self._filters(""), "silu")
        y, ssm = self._step_op(state["ssm"], *self._scan_arguments(convolved, parts, ""))
        return self._project_out(y, parts), {"conv": conv, "ssm": ssm}


class BidirectionalLayer(MambaLayer):
    """A layer of two scans, forwards and backwards in time, averaged between shared projections.

    It has no state, as it sees the future.
    """

    suffixes = ("", "_b")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the layer over whole sequences.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.

        Returns
        -------
        Tensor
            Output (batch, time, d_model).
        """
        batch, time, _ = x.shape
        lengths = check_lengths(type(self).__name__, lengths, batch, time, x.device)
        groups = find_groups(self, x, time)
        if groups is not None:
            return torch.cat([self(x[group], None if lengths is None else lengths[group]) for group in groups])
        pieces = find_pieces(self, x, time)
        if pieces is not None:
            return torch.cat([y for _, y in self.outputs(lambda piece: x[:, piece], pieces, lengths)], 1)
        return self._both_directions(self._mask_input(x, lengths), lengths)

    def _both_directions(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The output, zero past the lengths."""
        raise NotImplementedError

    def outputs(
        self, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Run the layer over pieces of frames, for inference: its memory is that of what both scans share, such as the
        input of the convolution, that of one scan's output, and that of one piece.

        The reverse direction goes over all pieces first, from the last one to the first, and its state with it.

        Arguments
        ---------
        read : callable
            Gives the input (batch, frames, d_model) of a piece. It is called twice for each, the second time right
            before the piece's output comes; then the caller may overwrite it.
        pieces : sequence of slice
            Consecutive frames, from the first one to the last.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.

        Returns
        -------
        iterator of (slice, Tensor)
            Each piece with its output (batch, frames, d_model), from the first one to the last.

        Example
        -------
        >>> from speechbrain_mamba.nnet.mamba import BiMamba
        >>> layer, x = BiMamba(d_model=8, d_state=4), torch.randn(2, 10, 8)
        >>> with torch.no_grad():
        ...     y = torch.cat([y for _, y in layer.outputs(lambda piece: x[:, piece], [slice(0, 6), slice(6, 10)])], 1)
        >>> torch.allclose(y, layer(x), atol=1e-6)
        True
        """
        scanned: list[tuple[Tensor, ...]] = []
        reversed_outputs: list[Tensor] = []
        state = None
        for piece in reversed(pieces):
            own = lengths_in(piece, lengths)
            scanned.append(self._project_scanned(self._mask_input(read(piece), own)))
            y, state = self._scan_piece(scanned[-1], own, "_b", state)
            reversed_outputs.append(y)
        state = None
        for piece in pieces:
            own = lengths_in(piece, lengths)
            y, state = self._scan_piece(scanned.pop(), own, "", state)
            y = (y + reversed_outputs.pop()).mul_(0.5)
            yield piece, self._finish_piece(y, self._mask_input(read(piece), own), own)

    def take_norm(self, norm: nn.Module) -> bool:
        """Leave a normalization of the inputs to the input projection, if its weight was reduced.

        Layers with a state have no such method, as they project single frames by another way.

        Arguments
        ---------
        norm : torch.nn.Module
            The normalization.

        Returns
        -------
        bool
            Whether it was taken over, and must not be called any more.
        """
        return isinstance(self.in_proj, ReducedLinear) and self.in_proj.absorb(norm)

    def _project_scanned(self, x: Tensor) -> tuple[Tensor, ...]:
        """What both scans read of the input projection."""
        raise NotImplementedError

    def _scan_piece(
        self, scanned: tuple[Tensor, ...], lengths: Tensor | None, suffix: str, state: Any
    ) -> tuple[Tensor, Any]:
        """The scan of one direction without its gate, from the state after the piece before, and the state after it."""
        raise NotImplementedError

    def _finish_piece(self, y: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The output, from the mean of both scans, which may be overwritten, and the input."""
        raise NotImplementedError

    def _project_rows(self, x: Tensor, rows: slice) -> Tensor:
        """Some of the features of the input projection alone."""
        if isinstance(self.in_proj, ReducedLinear):
            return self.in_proj.project_rows(x, rows)
        if type(self.in_proj) is not nn.Linear:  # what replaces it cannot be cut
            return self.in_proj(x)[..., rows]
        bias = self.in_proj.bias
        return F.linear(x, self.in_proj.weight[rows], None if bias is None else bias[rows])
