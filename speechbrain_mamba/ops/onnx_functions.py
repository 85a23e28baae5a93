"""What the recurrences of exported programs are in ONNX: functions of a model, made of standard operators.

Time runs in a ``Scan`` over chunks, whose body computes a chunk at a time: a loop over single frames would spend its
time on starting operators. Any number of frames goes, as a chunk is filled up with steps of length zero.

Sizes of a body have no names: names hold for the whole model, where two scans of other batches would pass for equally
large, and onnxruntime would give one the memory of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from speechbrain_mamba.ops.registry import use_backend
from speechbrain_mamba.utils._compat import silent_on_torchvision

DOMAIN = "speechbrain_mamba"
OPSET = 18
"""The version of the standard operators in the functions, and in the models that use them."""
FRAMES = 16
"""Frames of a chunk of the selective scan, which the body of the loop writes out one by one."""
SSD_FRAMES = 32
"""Frames of a chunk of the scan of Mamba-2, which the body computes as products of matrices."""

_HEADER = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'


def _split(ranks: Mapping[str, int]) -> str:
    """Lines that cut tensors, given with their numbers of axes, into chunks (chunks, batch, frames, ...)."""
    lines = ""
    for name, rank in ranks.items():
        perm = ", ".join(str(axis) for axis in (1, 0, *range(2, rank + 1)))
        lines += f"""
    {name}_rest = Shape <start = 2>({name})
    {name}_shape = Concat <axis = 0>(chunk_shape, {name}_rest)
    {name}_padded = Pad({name}, pads, float_zero, time_axis)
    {name}_parts = Reshape({name}_padded, {name}_shape)
    {name}_chunks = Transpose <perm = [{perm}]>({name}_parts)"""
    return lines


def _begin(frames: int) -> str:
    """Lines on the number of frames; there is one chunk at least, as ``Scan`` needs one."""
    return f"""
    time = Shape <start = 1, end = 2>(u)
    zero = Constant <value_ints = [0]>()
    time_axis = Constant <value_ints = [1]>()
    float_zero = Constant <value_float = 0.0>()
    frames = Constant <value_ints = [{frames}]>()
    chunk_shape = Constant <value_ints = [0, -1, {frames}]>()
    negative = Neg(time)
    rest = Mod(negative, frames)
    room = Sub(frames, time)
    missing = Max(rest, room)
    pads = Concat <axis = 0>(zero, missing)"""


def _end(rank: int) -> str:
    """Lines that join the chunks of the output."""
    perm = ", ".join(str(axis) for axis in (1, 0, *range(2, rank + 1)))
    return f"""
    y_parts = Transpose <perm = [{perm}]>(y_chunks)
    y_rest = Shape <start = 2>(u)
    y_begin = Constant <value_ints = [0, -1]>()
    y_shape = Concat <axis = 0>(y_begin, y_rest)
    y_padded = Reshape(y_parts, y_shape)
    y = Slice(y_padded, zero, time, time_axis)"""


def selective_scan_text() -> str:
    """The selective scan, in the text form of ONNX."""
    # The body has the states before the channels: each product then runs over all channels in one go.
    state, lines, states = "state_in", [], []
    for frame in range(FRAMES):
        lines += [f"decayed{frame} = Mul(decay{frame}, {state})", f"state{frame} = Add(decayed{frame}, added{frame})"]
        state = f"state{frame}"
        states.append(state)
    steps = "\n            ".join(lines)
    return f"""{_HEADER}
SelectiveScan (u, delta, A, B, C, state) => (y, last_state)
{{{_begin(FRAMES)}
    product = Mul(delta, u)
    last_axis = Constant <value_ints = [-1]>()
    two = Constant <value_ints = [2]>()
    rates = Transpose <perm = [1, 0]>(A)
    state_turned = Transpose <perm = [0, 2, 1]>(state)
    first_state = Unsqueeze(state_turned, time_axis){_split({"product": 3, "delta": 3, "B": 3, "C": 3})}
    last_turned, y_chunks = Scan <num_scan_inputs = 4, body = chunk (
        float[?, 1, ?, ?] state_in, float[?, {FRAMES}, ?] d, float[?, {FRAMES}, ?] p, float[?, {FRAMES}, ?] b,
        float[?, {FRAMES}, ?] c
    ) => (float[?, 1, ?, ?] state_out, float[?, {FRAMES}, ?] y_out) {{
            d_row = Unsqueeze(d, two)
            exponents = Mul(d_row, rates)
            decays = Exp(exponents)
            p_row = Unsqueeze(p, two)
            b_column = Unsqueeze(b, last_axis)
            all_added = Mul(b_column, p_row)
            {_unstacked("decay")} = Split <axis = 1, num_outputs = {FRAMES}>(decays)
            {_unstacked("added")} = Split <axis = 1, num_outputs = {FRAMES}>(all_added)
            {steps}
            all_states = Concat <axis = 1>({", ".join(states)})
            c_row = Unsqueeze(c, two)
            y_row = MatMul(c_row, all_states)
            y_out = Squeeze(y_row, two)
            state_out = Identity({state})
        }}> (first_state, delta_chunks, product_chunks, B_chunks, C_chunks){_end(3)}
    last_squeezed = Squeeze(last_turned, time_axis)
    last_state = Transpose <perm = [0, 2, 1]>(last_squeezed)
}}"""


def _unstacked(part: str) -> str:
    """The names of the frames of a chunk, (batch, 1, ...) each."""
    return ", ".join(f"{part}{frame}" for frame in range(FRAMES))


def ssd_text() -> str:
    """The scan of Mamba-2, in the text form of ONNX; the products are those of the backend ``chunked``."""
    # In the body, tensors are (batch, groups, heads of a group, frames, ...).
    return f"""{_HEADER}
Ssd (u, delta, A, B, C, state) => (y, last_state)
{{{_begin(SSD_FRAMES)}
    one = Constant <value_ints = [1]>()
    two = Constant <value_ints = [2]>()
    last_axis = Constant <value_ints = [-1]>()
    groups = Shape <start = 2, end = 3>(B)
    sizes = Shape <start = 2>(state)
    head_shape = Concat <axis = 0>(zero, groups, last_axis, sizes)
    first_state = Reshape(state, head_shape)
    rate_shape = Concat <axis = 0>(groups, last_axis, one)
    rates = Reshape(A, rate_shape)
    any = Constant <value_ints = [0, 0]>()
    of_heads = Concat <axis = 0>(any, groups, last_axis)
    channels = Shape <start = 3>(u)
    u_heads = Concat <axis = 0>(any, groups, last_axis, channels)
    frame_axis = Constant <value = int64 {{3}}>()
    square = Constant <value_ints = [{SSD_FRAMES}, {SSD_FRAMES}]>()
    filled = ConstantOfShape <value = int64[1] {{1}}>(square)
    lower_ints = Trilu <upper = 0>(filled)
    earlier = Cast <to = 9>(lower_ints)
    nothing = Constant <value = float {{-inf}}>()
    largest = Constant <value = float {{120.0}}>()
    smallest = Neg(largest)
    step = Constant <value = float {{256.0}}>()
    last_frame = Constant <value_ints = [{SSD_FRAMES - 1}]>(){_split({"u": 4, "delta": 3, "B": 4, "C": 4})}
    last_grouped, y_chunks = Scan <num_scan_inputs = 4, body = chunk (
        float[?, ?, ?, ?, ?] state_in, float[?, {SSD_FRAMES}, ?, ?] x_in, float[?, {SSD_FRAMES}, ?] d_in,
        float[?, {SSD_FRAMES}, ?, ?] b_in, float[?, {SSD_FRAMES}, ?, ?] c_in
    ) => (float[?, ?, ?, ?, ?] state_out, float[?, {SSD_FRAMES}, ?, ?] y_out) {{
            x_split = Reshape(x_in, u_heads)
            x = Transpose <perm = [0, 2, 3, 1, 4]>(x_split)
            d_split = Reshape(d_in, of_heads)
            d = Transpose <perm = [0, 2, 3, 1]>(d_split)
            b_split = Transpose <perm = [0, 2, 1, 3]>(b_in)
            b = Unsqueeze(b_split, two)
            c_split = Transpose <perm = [0, 2, 1, 3]>(c_in)
            c = Unsqueeze(c_split, two)
            all_exponents = Mul(d, rates)
            exponents = Clip(all_exponents, smallest, largest)
            scaled = Mul(exponents, step)
            rounded = Round(scaled)
            coarse_steps = Div(rounded, step)
            fine_steps = Sub(exponents, coarse_steps)
            coarse = CumSum(coarse_steps, frame_axis)
            fine = CumSum(fine_steps, frame_axis)
            coarse_column = Unsqueeze(coarse, last_axis)
            fine_column = Unsqueeze(fine, last_axis)
            coarse_row = Transpose <perm = [0, 1, 2, 4, 3]>(coarse_column)
            fine_row = Transpose <perm = [0, 1, 2, 4, 3]>(fine_column)
            coarse_between = Sub(coarse_column, coarse_row)
            fine_between = Sub(fine_column, fine_row)
            between = Add(coarse_between, fine_between)
            visible = Where(earlier, between, nothing)
            decays = Exp(visible)
            sums = Add(coarse_column, fine_column)
            from_start = Exp(sums)
            d_column = Unsqueeze(d, last_axis)
            weighted = Mul(x, d_column)
            b_turned = Transpose <perm = [0, 1, 2, 4, 3]>(b)
            scores = MatMul(c, b_turned)
            weights = Mul(decays, scores)
            y_within = MatMul(weights, weighted)
            c_decayed = Mul(c, from_start)
            state_turned = Transpose <perm = [0, 1, 2, 4, 3]>(state_in)
            y_before = MatMul(c_decayed, state_turned)
            y_heads = Add(y_within, y_before)
            y_frames = Transpose <perm = [0, 3, 1, 2, 4]>(y_heads)
            y_like = Shape(x_in)
            y_out = Reshape(y_frames, y_like)
            whole = Gather <axis = 3>(from_start, last_frame)
            kept = Mul(whole, state_in)
            end_row = Gather <axis = 3>(decays, last_frame)
            end_column = Transpose <perm = [0, 1, 2, 4, 3]>(end_row)
            b_decayed = Mul(b, end_column)
            weighted_turned = Transpose <perm = [0, 1, 2, 4, 3]>(weighted)
            brought = MatMul(weighted_turned, b_decayed)
            state_out = Add(kept, brought)
        }}> (first_state, u_chunks, delta_chunks, B_chunks, C_chunks){_end(4)}
    state_shape = Shape(state)
    last_state = Reshape(last_grouped, state_shape)
}}"""


def running_max_text() -> str:
    """The largest value so far of features (batch, time, features), in the text form of ONNX."""
    return f"""{_HEADER}
RunningMax (x) => (y)
{{
    zero = Constant <value_int = 0>()
    first = Gather <axis = 1>(x, zero)
    last, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], body = frame (
        float[?, ?] most_in, float[?, ?] value
    ) => (float[?, ?] most_out, float[?, ?] y_out) {{
            most_out = Max(most_in, value)
            y_out = Identity(most_out)
        }}> (first, x)
}}"""


def functions() -> list[Any]:
    """The functions of the package, as ``onnx.FunctionProto``."""
    from onnx import parser

    return [parser.parse_function(text) for text in (selective_scan_text(), ssd_text(), running_max_text())]


def onnx_program(module: torch.nn.Module, inputs: Sequence[Any], dynamic_shapes: Any, **names: Any) -> Any:
    """Export a module to ONNX, its Mamba layers included.

    Arguments
    ---------
    module : torch.nn.Module
        The module, on the CPU, in float32 and in evaluation mode.
    inputs : sequence
        Example inputs.
    dynamic_shapes : tuple
        The axes of each that may have another size, as ``torch.export`` takes them.
    **names
        ``input_names`` and ``output_names`` of the graph.

    Returns
    -------
    torch.onnx.ONNXProgram
        The program; ``save`` writes it.
    """
    import onnx_ir

    from speechbrain_mamba.ops.onnx_translations import translations

    # Traced here: torch.onnx.export lets tracing defer guards, which it then cannot do with some lengths.
    with use_backend("reference"), torch.no_grad():
        traced = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic_shapes)
    options: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "verbose": False, **names}
    with silent_on_torchvision():
        program = torch.onnx.export(traced, custom_translation_table=translations(), **options)
    assert program is not None  # nothing is returned where a file is written
    used = {node.op_type for node in program.model.graph if node.domain == DOMAIN}
    for function in map(onnx_ir.serde.deserialize_function, functions()):
        if function.name in used:
            program.model.functions[function.identifier()] = function
    if used:
        program.model.opset_imports[DOMAIN] = 1
    return program
