"""The tests of the CPU kernels with a library that checks addresses and undefined behavior (gcc or clang)."""
