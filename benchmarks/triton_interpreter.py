"""Triton's interpreter, which runs kernels in NumPy without a GPU: set ``TRITON_INTERPRET=1`` before the import.

It is thousands of times slower than a GPU.
"""

from __future__ import annotations


def repair() -> None:
    """Let the interpreter run on NumPy 2.4, which no longer turns arrays of one element into integers implicitly."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch
