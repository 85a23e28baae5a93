"""Every private interface of another package that this one touches, each behind a function or class with a public name.

Nothing else in the package reaches into another package's private parts. ``tests/utils/test_compat.py`` has a test for
each that fails, and says which, when the interface moves.
"""

from __future__ import annotations

# ---------------------------------------------------------------------------------------------------- SpeechBrain

# ---------------------------------------------------------------------------------------------------- HyperPyYAML

# ---------------------------------------------------------------------------------------------------- PyTorch

# ---------------------------------------------------------------------------------------------------- Triton

# ---------------------------------------------------------------------------------------------------- EnCodec
