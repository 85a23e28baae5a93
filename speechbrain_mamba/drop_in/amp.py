"""The decorators of ``mamba_ssm.utils.torch``: the forward and backward pass of a function under autocast on a GPU."""

from __future__ import annotations

from functools import partial

import torch

custom_fwd = partial(torch.amp.custom_fwd, device_type="cuda")
custom_bwd = partial(torch.amp.custom_bwd, device_type="cuda")
