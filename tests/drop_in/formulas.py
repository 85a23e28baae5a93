"""The operations of mamba-ssm and causal-conv1d written out frame by frame, in the layout (batch, channels, time)."""

import torch
import torch.nn.functional as F


def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, softplus=True, state=None):
    """The selective scan; B and C are (batch, groups, state, time) or (channels, state)."""
    batch, channels, time = u.shape

    def by_channel(t):
        if t.dim() == 2:
            return t[None, :, :, None].expand(batch, -1, -1, time)
        return t.repeat_interleave(channels // t.shape[1], 1)

    B, C = by_channel(B), by_channel(C)
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = F.softplus(step) if softplus else step
    state = torch.zeros(batch, *A.shape, dtype=u.dtype) if state is None else state
    ys = []
    for t in range(time):
        state = torch.exp(step[:, :, t, None] * A) * state + (step * u)[:, :, t, None] * B[..., t]
        ys.append((state * C[..., t]).sum(-1))
    y = torch.stack(ys, -1)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * F.silu(z)), state


def convolve(x, weight, bias=None, silu=False, before=None):
    """The convolution after some frames (batch, channels, width - 1)."""
    width = weight.shape[1]
    before = x.new_zeros(*x.shape[:2], width - 1) if before is None else before
    frames = torch.cat([before, x], -1)
    y = sum(weight[:, k, None] * frames[..., k : k + x.shape[-1]] for k in range(width))
    y = y if bias is None else y + bias[:, None]
    return F.silu(y) if silu else y


def layer(xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, delta_bias):
    """A Mamba layer after its input projection, (batch, 2 * channels, time)."""
    x, z = xz.chunk(2, 1)
    x = convolve(x, conv.squeeze(1), conv_bias, silu=True)
    rank, states = dt_proj.shape[1], A.shape[1]
    factor, B, C = torch.einsum("fc,bct->bft", x_proj, x).split([rank, states, states], 1)
    delta = torch.einsum("cr,brt->bct", dt_proj, factor)
    y, _ = scan(x, delta, A, B[:, None], C[:, None], D, z, delta_bias)
    return torch.einsum("dc,bct->btd", out_proj, y)


def normalize(x, weight, bias, eps, rms):
    centered = x if rms else x - x.mean(-1, keepdim=True)
    y = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return y if bias is None else y + bias


def gradients(function, *tensors):
    """Outputs in float64, and the gradients of their weighted sum; None tensors stay."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    sum((y.double() * torch.randn(y.shape, dtype=torch.float64)).sum() for y in outputs).backward()
    return [*(y.detach() for y in outputs), *(t.grad for t in leaves if t is not None)]


def check(ours, formula, *tensors, tolerance=1e-5):
    """Assert that outputs and gradients of ours are those of a formula in float64."""
    expected = gradients(formula, *(None if t is None else t.double() for t in tensors))
    for number, (found, right) in enumerate(zip(gradients(ours, *tensors), expected, strict=True)):
        if right is not None:
            error = (found.double() - right).abs().max() / right.abs().max().clamp(min=1)
            assert error < tolerance, f"number {number} is off by {error:.1e}"
