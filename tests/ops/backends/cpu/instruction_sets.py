"""The instruction sets that the native kernels' tests run with."""

from speechbrain_mamba.ops.backends.cpu.native import library

INSTRUCTION_SETS = library().instruction_sets
