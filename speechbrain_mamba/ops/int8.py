"""Products with weights of 8-bit integers, for inference on a CPU.

A weight is made of integers once, with a scale for each output, and packed as the processor's instructions want it. An
input is made of integers in each call, with a scale for each row: a frame then gives the same whatever stands beside it
in a batch, behind it as padding, or in another chunk of a stream. The products are those of oneDNN in torch.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.rowwise import DTYPES, Norm, row_kernels
from speechbrain_mamba.utils._compat import Int8Factor
from speechbrain_mamba.utils.memory import grid_length

LARGEST_INTEGER, ZERO_POINT = 127, 128
_BLOCK_BYTES = 1 << 21
"""Of a block of products, which stays in a core's own cache until it is scaled."""


class PackedWeight:
    """A weight of a projection as 8-bit integers, in the place of a tensor (outputs, inputs).

    Arguments
    ---------
    weight : Tensor
        The weight (outputs, inputs), on a CPU and finite.

    Raises
    ------
    ValueError
        When it is not finite, or the machine has no products of 8-bit integers.

    Example
    -------
    >>> if int8_unavailable() is None:
    ...     PackedWeight(torch.eye(16)).multiply(torch.ones(2, 16)).shape == (2, 16)
    ... else:
    ...     True
    True
    """

    dtype = torch.float32
    """Type of the numbers that it stands for."""
    device = torch.device("cpu")

    scales: Tensor
    """What the integers of each output are multiplied by, float32 (outputs,)."""

    def __init__(self, weight: Tensor) -> None:
        self._pack(*quantize_weight(weight))

    @classmethod
    def of_integers(cls, integers: Tensor, scales: Tensor) -> PackedWeight:
        """Pack a weight that is made of integers already, see :func:`quantize_weight`.

        Arguments
        ---------
        integers : Tensor
            (outputs, inputs), int8.
        scales : Tensor
            What the integers of each output are multiplied by (outputs,), float32.

        Raises
        ------
        ValueError
            When the machine has no products of 8-bit integers.
        """
        packed = cls.__new__(cls)
        packed._pack(integers, scales)
        return packed

    def _pack(self, integers: Tensor, scales: Tensor) -> None:
        reason = int8_unavailable()
        if reason is not None:
            raise ValueError(f"The weight cannot be made of 8-bit integers: {reason}")
        self.shape, self.scales = integers.shape, scales
        self._factor = Int8Factor(integers, scales)
        self._cut: dict[tuple[int, int], PackedWeight] = {}

    def __getitem__(self, rows: slice) -> PackedWeight:
        """The weight of consecutive outputs, packed at the first call and kept."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"The outputs {rows} are not consecutive.")
        if (start, stop) == (0, self.shape[0]):
            return self
        if (start, stop) not in self._cut:
            self._cut[start, stop] = PackedWeight.of_integers(self._factor.integers()[rows], self.scales[rows])
        return self._cut[start, stop]

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return self  # nothing changes it

    @functools.cached_property
    def integers(self) -> Tensor:
        """The integers themselves, int8 (outputs, inputs), as steps of models read them: made at the first use."""
        return self._factor.integers()

    @functools.cached_property
    def sums(self) -> Tensor:
        """The sum of each output's integers, int32 (outputs,)."""
        return self.integers.sum(1, dtype=torch.int32)

    def dim(self) -> int:
        """Its number of axes."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether it stands for floating-point numbers: it does."""
        return True

    def multiply(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        dtype: torch.dtype | None = None,
        norm: Norm | None = None,
        activation: str | None = None,
    ) -> Tensor:
        """Project rows.

        Arguments
        ---------
        x : Tensor
            Inputs (..., inputs), float32, bfloat16 or float16.
        bias : Tensor, optional
            What is added (outputs,).
        dtype : torch.dtype, optional
            Type of the output, one of the same; that of ``x`` by default.
        norm : Norm, optional
            What rows go through first.
        activation : str, optional
            What the products go through last, ``relu`` or ``gelu``.

        Returns
        -------
        Tensor
            (..., outputs). A row that holds NaN or infinity gives no finite number.

        Raises
        ------
        ValueError
            When a gradient is asked for: there is none.
        TypeError
            For other types.
        """
        dtype = dtype or x.dtype
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError("Weights of 8-bit integers have no gradient: load the model in fp32 or bf16.")
        if x.dtype not in DTYPES or dtype not in DTYPES or x.device != self.device:
            raise TypeError(
                f"A weight of 8-bit integers got {x.dtype} on {x.device} for {dtype}, but takes and gives float32, "
                "bfloat16 and float16 on a CPU."
            )
        outputs, inputs = self.shape
        y = x.new_empty(*x.shape[:-1], outputs, dtype=dtype)
        rows, products = x.reshape(-1, inputs), y.view(-1, outputs)
        bias = None if bias is None else bias.float().contiguous()
        # half the memory, and a rounding that is small beside that to integers
        between = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        kernels, block = row_kernels(), max(32, _BLOCK_BYTES // (between.itemsize * max(outputs, 1)))
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            here = products[part]
            integers, scales = kernels.quantize_rows(rows[part], norm, grid_length(len(here)))
            found = self._factor.multiply(integers, between)[: len(here)]
            kernels.finish_rows(found, scales, bias, here, activation)
        return y


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Make 8-bit integers of a weight, with a scale for each output.

    Arguments
    ---------
    weight : Tensor
        The weight (outputs, inputs).

    Returns
    -------
    integers : Tensor
        (outputs, inputs), int8, between -127 and 127.
    scales : Tensor
        What the integers of each output are multiplied by (outputs,), float32.

    Raises
    ------
    ValueError
        When it is not finite.

    Example
    -------
    >>> integers, scales = quantize_weight(torch.tensor([[0.5, -1.0], [0.0, 0.0]]))
    >>> integers
    tensor([[  64, -127],
            [   0,    0]], dtype=torch.int8)
    """
    weight = weight.detach().float()
    scales = weight.abs().amax(1) / LARGEST_INTEGER
    if not bool(torch.isfinite(scales).all()):
        raise ValueError("The weight holds NaN or infinity, so it cannot be made of 8-bit integers.")
    # a row of zeros has a scale of zero, by which nothing can be divided
    rows = (weight / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
    return rows.to(torch.int8), scales


def project(
    x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A linear projection, by a weight of any kind.

    Arguments
    ---------
    x : Tensor
        Inputs (..., inputs).
    weight : Tensor or PackedWeight
        The weight (outputs, inputs). A tensor is cast to ``dtype``, in which the product is computed.
    bias : Tensor, optional
        What is added (outputs,).
    dtype : torch.dtype, optional
        Type of the output, that of ``x`` by default.

    Returns
    -------
    Tensor
        (..., outputs).

    Example
    -------
    >>> project(torch.ones(3, 2), torch.ones(4, 2)).shape
    torch.Size([3, 4])
    """
    if isinstance(weight, PackedWeight):
        return weight.multiply(x, bias, dtype)
    dtype = dtype or x.dtype
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


@functools.cache
def int8_unavailable() -> str | None:
    """Why this machine has no fast products of 8-bit integers, None if it has.

    Processors without VNNI add pairs of products in 16 bits, which overflow: what counts is whether the largest numbers
    give the right sum.

    Example
    -------
    >>> int8_unavailable() is None or int8_unavailable().endswith(".")
    True
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"torch's products of 8-bit integers are fast on x86 only, and this machine is {platform.machine()}."
    try:
        factor = Int8Factor(torch.full((16, 64), LARGEST_INTEGER, dtype=torch.int8), torch.ones(16))
        found = factor.multiply(torch.full((4, 64), 255, dtype=torch.uint8), torch.float32)
    except (AttributeError, RuntimeError) as error:
        return f"this torch has no products of 8-bit integers ({str(error).splitlines()[0]})."
    if bool((found == 64.0 * LARGEST_INTEGER * (255 - ZERO_POINT)).all()):
        return None
    return "this processor has no instructions (VNNI) for sums of products of 8-bit integers."


__all__ = ["PackedWeight", "int8_unavailable", "project", "quantize_weight"]
