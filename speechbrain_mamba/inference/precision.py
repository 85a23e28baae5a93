"""The precision that a model computes with in inference: on a CPU its weights are reduced once, when it is loaded."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import torch
from speechbrain.inference.interfaces import Pretrained

from speechbrain_mamba.nnet.reduced_linear import reduce_linears
from speechbrain_mamba.ops import approximate_exponentials
from speechbrain_mamba.ops.int8 import int8_unavailable
from speechbrain_mamba.utils.processor import bf16_unavailable

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "int8", "fp16")


def check_precision(precision: Any, device: torch.device) -> str:
    """Check that models can compute with a precision on a device.

    Arguments
    ---------
    precision : object
        What the caller asks for.
    device : torch.device
        Where the model computes.

    Returns
    -------
    str
        One of :data:`PRECISIONS`: ``fp32`` where a CPU lacks the instructions that would make another one faster, which
        is told.

    Raises
    ------
    ValueError
        When there is no such precision, or not on such a device.

    Example
    -------
    >>> check_precision("fp16", torch.device("cpu"))
    Traceback (most recent call last):
    ValueError: precision is 'fp16', which needs a GPU: on a CPU take bf16, int8 or fp32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}', but must be one of {', '.join(PRECISIONS)}.")
    if device.type != "cpu":
        if precision == "int8":
            raise ValueError(f"precision is 'int8', which is for a CPU: on '{device}' take bf16, fp16 or fp32.")
        return precision
    if precision == "fp16":
        # torch computes little with them on a CPU, and some convolutions of oneDNN never end
        raise ValueError("precision is 'fp16', which needs a GPU: on a CPU take bf16, int8 or fp32.")
    reason = int8_unavailable() if precision == "int8" else bf16_unavailable() if precision == "bf16" else None
    if reason is None:
        return precision
    logger.warning("The model computes in fp32 instead of %s, which would be slower here: %s", precision, reason)
    return "fp32"


class ReducedPrecision(contextlib.AbstractContextManager):
    """What a model of reduced precision computes in; it can be entered again, also from within and by several threads.

    bfloat16 by autocast, where the processor has it: what stands between the products then moves half the memory. In
    any case exponentials are as exact as bfloat16 is.

    Example
    -------
    >>> context = ReducedPrecision()
    >>> with context, context:
    ...     torch.is_autocast_enabled("cpu") == (bf16_unavailable() is None)
    True
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(approximate_exponentials())
            if bf16_unavailable() is None:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            self._local.entered = [*getattr(self._local, "entered", ()), stack.pop_all()]

    def __exit__(self, *error: Any) -> None:
        self._local.entered.pop().close()


def reduce_precision(model: Pretrained, precision: str) -> None:
    """Let a loaded model compute with ``bf16`` or ``int8`` on a CPU; other precisions need nothing.

    Arguments
    ---------
    model : speechbrain.inference.interfaces.Pretrained
        The model, of which ``mods`` and ``inference_ctx`` are replaced.
    precision : str
        One of :data:`PRECISIONS`, checked.
    """
    model.precision = precision
    if precision not in ("bf16", "int8") or torch.device(model.device).type != "cpu":
        return
    reduce_linears(model.mods, precision)  # type: ignore[arg-type]  # one of both
    model.inference_ctx = ReducedPrecision()


__all__ = ["PRECISIONS", "check_precision", "reduce_precision"]
