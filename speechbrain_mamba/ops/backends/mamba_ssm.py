"""Adapters to the public CUDA kernels: the packages mamba-ssm (2.1 to 2.3) and causal-conv1d (1.4 to 1.7).

Older ones do not fit: the one-step kernel of mamba-ssm before 2.1 does not compile with today's Triton, and the
convolution's state has one frame more in causal-conv1d before 1.4.

The layout of their convolution and of the scan of Mamba is (batch, channels, time). They know neither lengths nor a
reverse direction: sequences are put into the order of the scan and their padding is cleared before the call. What they
cannot serve, :func:`unsupported` names.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.reference import reorder, scan_order, step_size
from speechbrain_mamba.ops.directions import Filters, ScanInputs
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_STATE = 256
WIDTHS = range(2, 5)
OLDEST = {"mamba_ssm": (2, 1), "causal_conv1d": (1, 4)}
"""The oldest version of each package whose interface fits."""

SSD_CHUNKS = (64, 256)
"""Shortest chunk of mamba-ssm's scan of Mamba-2 that is asked for, and longest, which is the default."""
MARK = "__speechbrain_mamba__"
"""An attribute of modules that ``speechbrain_mamba.drop_in`` serves under the names of these packages."""

_SCAN_MODULE = "mamba_ssm.ops.selective_scan_interface"
_SSD_MODULE = "mamba_ssm.ops.triton.ssd_combined"
_NEEDED = (
    (_SCAN_MODULE, "selective_scan_fn"),
    ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update"),
    ("causal_conv1d", "causal_conv1d_fn"),
    ("causal_conv1d", "causal_conv1d_update"),
)


@cache
def _kernels() -> SimpleNamespace:
    """The functions of both packages, by name."""
    return SimpleNamespace(**{name: getattr(importlib.import_module(module), name) for module, name in _NEEDED})


@cache
def _ssd_kernel() -> tuple[Any, str | None]:
    """The scan of Mamba-2, or why it is missing: the others serve without it."""
    try:
        return importlib.import_module(_SSD_MODULE).mamba_chunk_scan_combined, None
    except Exception as error:
        return None, f"{_SSD_MODULE} of mamba-ssm cannot be imported ({type(error).__name__}: {error})."


def _too_old(package: str) -> str | None:
    """A sentence on a package that is older than the adapters, or is our own stand-in, None if it is neither."""
    if hasattr(importlib.import_module(package), MARK):
        return f"{package.replace('_', '-')} is not installed, and speechbrain_mamba.drop_in serves its names."
    version = importlib.import_module(package).__version__
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= OLDEST[package]:
        return None
    oldest = ".".join(map(str, OLDEST[package]))
    return f"{package.replace('_', '-')} {version} is installed, but {oldest} or newer is needed."


def unavailable() -> str | None:
    """Why this backend cannot be used here, None if it can."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        return "it needs a CUDA GPU, and PyTorch sees none."
    try:
        reasons = [_too_old(package) for package in OLDEST]
        kernels = _kernels()
        compiled = getattr(importlib.import_module(_SCAN_MODULE), "selective_scan_cuda", None)
    except Exception as error:  # these packages import much of what they do not need for this
        return (
            f"mamba-ssm and causal-conv1d cannot be imported ({type(error).__name__}: {error}): install "
            "'speechbrain_mamba[cuda]' with --no-build-isolation; docs/gpu.md says how."
        )
    for reason in reasons:
        if reason is not None:
            return reason
    if compiled is None:
        return (
            "mamba-ssm was built without its scan (selective_scan_cuda): install it again with "
            "MAMBA_KEEP_CUDA_BUILD=TRUE and --no-build-isolation."
        )
    missing = [name for name, function in vars(kernels).items() if function is None]
    return f"the installed packages were built without {', '.join(missing)}." if missing else None


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    if call.op in ("ssd", "bidirectional_ssd") and (missing := _ssd_kernel()[1]):
        return missing
    if reason := call.wrong_tensor(DEVICE, DTYPES):
        return reason
    if call.states > LARGEST_STATE:
        return f"mamba-ssm takes up to {LARGEST_STATE} states per channel, but got {call.states}."
    if call.width and call.width not in WIDTHS:
        return f"causal-conv1d takes filters of 2 to 4 frames, but got {call.width}."
    if call.continues and call.op != "ssd":
        return "the scan of mamba-ssm takes no initial state."
    if call.op.endswith("_update") and asks_for_gradient(call.tensor, *call.others):
        return "the one-step kernels of mamba-ssm and causal-conv1d have no gradients."
    if 0 in call.tensor.shape:
        return "mamba-ssm and causal-conv1d take no empty tensors."
    return None


class _WithoutGradient(torch.autograd.Function):
    """The last state, which mamba-ssm silently does not differentiate."""

    @staticmethod
    def forward(ctx: Any, state: Tensor) -> Tensor:
        """The state itself."""
        return state.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Refuse."""
        raise NotImplementedError(
            "mamba-ssm has no gradient through the last state of a scan: use the backend 'triton', or auto."
        )


def _in_scan_order(x: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """Frames in the order of the scan, zero past the length; its own inverse."""
    x = mask_frames(x, lengths)
    if reverse and lengths is None:
        return x.flip(1)
    return reorder(x, scan_order(x.shape[1], lengths, reverse, x.device))


def _channels_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames as (batch, channels, time), the last axis of stride 1.

    ``contiguous()`` takes any stride for an axis of one frame, but causal-conv1d reads a larger one as a layout that
    has to have a multiple of 8 channels.
    """
    x = x.to(dtype).transpose(1, 2).contiguous()
    return x if x.stride(-1) == 1 else x.clone(memory_format=torch.contiguous_format)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan; see :func:`speechbrain_mamba.ops.scan`."""
    dtype = u.dtype
    u, delta, B, C = (_in_scan_order(x, lengths, reverse) for x in (u, delta, B, C))
    z = None if z is None else _in_scan_order(z, lengths, reverse)
    if lengths is not None and return_last_state:
        # Steps of length zero in the padding keep the state; bias and softplus have to come before.
        delta = delta.float() if delta_bias is None else delta.float() + delta_bias.float()
        delta = mask_frames(F.softplus(delta) if delta_softplus else delta, lengths)
        delta_bias, delta_softplus = None, False
    result = _kernels().selective_scan_fn(
        *(_channels_first(x, dtype) for x in (u, delta)),
        A.float().contiguous(),
        *(_channels_first(x, dtype) for x in (B, C)),
        D=None if D is None else D.float(),
        z=None if z is None else _channels_first(z, dtype),
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus,
        return_last_state=return_last_state,
    )
    y = _in_scan_order((result[0] if return_last_state else result).transpose(1, 2), lengths, reverse)
    return (y, _WithoutGradient.apply(result[1].float())) if return_last_state else y


def bidirectional_selective_scan(
    forward: ScanInputs, reverse: ScanInputs, z: Tensor | None, delta_softplus: bool, lengths: Tensor | None
) -> Tensor:
    """Both directions of a scan, averaged; see :func:`speechbrain_mamba.ops.bidirectional_selective_scan`."""

    def scan(direction: ScanInputs, backwards: bool) -> Tensor:
        u, delta, A, B, C, D, delta_bias = direction
        inputs = (u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        return cast(Tensor, selective_scan(*inputs, lengths=lengths, reverse=backwards))

    return 0.5 * (scan(forward, False) + scan(reverse, True))


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence; see :func:`speechbrain_mamba.ops.selective_state_update`.

    mamba-ssm documents D and the bias as optional, but fails without them.
    """
    state = state.to(torch.float32, copy=True)  # theirs changes it in place
    nothing = torch.zeros(u.shape[1], device=u.device)
    y = _kernels().selective_state_update(
        state, u, delta, A.float(), B, C, nothing if D is None else D.float(), z=z,
        dt_bias=nothing if delta_bias is None else delta_bias.float(), dt_softplus=delta_softplus,
    )  # fmt: skip
    return y.to(u.dtype), state


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd`. Its chunks are powers of two."""
    x, delta, B, C = (_in_scan_order(t, lengths, reverse) for t in (x, delta, B, C))
    z = None if z is None else _in_scan_order(z, lengths, reverse).to(x.dtype)
    if lengths is not None and return_last_state:
        # Steps of length zero in the padding keep the state; bias, softplus and limits have to come before.
        delta = mask_frames(step_size(delta, delta_bias, delta_softplus, dt_limit), lengths)
        delta_bias, delta_softplus, dt_limit = None, False, (0.0, float("inf"))
    shortest, longest = SSD_CHUNKS
    chunk = min(max(1 << ((chunk_size or longest) - 1).bit_length(), shortest), longest)
    result = _ssd_kernel()[0](
        x, delta, A.float(), B.to(x.dtype), C.to(x.dtype), chunk,
        D=None if D is None else D.float(),
        z=z,
        dt_bias=None if delta_bias is None else delta_bias.float(),
        initial_states=initial_state,
        dt_softplus=delta_softplus,
        dt_limit=dt_limit,
        return_final_states=return_last_state,
    )  # fmt: skip
    y, last = result if return_last_state else (result, None)
    y = mask_frames(_in_scan_order(y, lengths, reverse), lengths)
    return (y, last.float()) if last is not None else y


def ssd_update(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """One step of the scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd_update`.

    Theirs takes every parameter by channel and state. Expanded, with strides of zero, they are read once.
    """
    if not delta_softplus or dt_limit != (0.0, float("inf")):  # it knows no limits, and a softplus keeps to these
        delta = step_size(delta, delta_bias, delta_softplus, dt_limit)
        delta_bias, delta_softplus = None, False
    state = state.to(torch.float32, copy=True)  # theirs changes it in place
    heads, channels, states = state.shape[1:]
    nothing = torch.zeros(heads, device=x.device)
    D, delta_bias = (nothing if t is None else t.float() for t in (D, delta_bias))
    y = _kernels().selective_state_update(
        state, x, delta[..., None].expand(x.shape), A.float()[:, None, None].expand(heads, channels, states), B, C,
        D if D.dim() == 2 else D[:, None].expand(heads, channels), z=z,
        dt_bias=delta_bias[:, None].expand(heads, channels), dt_softplus=delta_softplus,
    )  # fmt: skip
    return y.to(x.dtype), state


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.conv`.

    An initial state is put before the sequence: not all versions of causal-conv1d take one.
    """
    history = weight.shape[1] - 1
    dtype = x.dtype
    x = _in_scan_order(x, lengths, reverse)
    if initial_state is None:
        earlier = x.new_zeros(x.shape[0], history, x.shape[2]) if return_final_state else x[:, :0]
    else:
        earlier = initial_state.to(dtype).transpose(1, 2)
    padded = torch.cat([earlier, x], 1) if earlier.shape[1] else x
    y = _kernels().causal_conv1d_fn(
        _channels_first(padded, dtype), weight.to(dtype), None if bias is None else bias.to(dtype),
        activation=activation,
    )  # fmt: skip
    y = _in_scan_order(y.transpose(1, 2)[:, earlier.shape[1] :], lengths, reverse)
    if not return_final_state:
        return y
    end = torch.full((x.shape[0],), x.shape[1], device=x.device) if lengths is None else lengths
    last = end[:, None] + torch.arange(history, device=x.device)
    final = padded.gather(1, last[..., None].expand(-1, -1, x.shape[2])).transpose(1, 2)
    return y, final.to(dtype if initial_state is None else initial_state.dtype)


def bidirectional_causal_conv1d(
    x: Tensor, forward: Filters, reverse: Filters, activation: str | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both directions of a convolution; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
    y = causal_conv1d(x, *forward, activation, lengths=lengths)
    y_reverse = causal_conv1d(x, *reverse, activation, lengths=lengths, reverse=True)
    return cast(Tensor, y), cast(Tensor, y_reverse)


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
    dtype = x.dtype
    window = state.to(dtype, copy=True).contiguous()  # theirs changes it in place
    y = _kernels().causal_conv1d_update(
        x, window, weight.to(dtype), None if bias is None else bias.to(dtype), activation
    )
    return y, window.to(state.dtype)
