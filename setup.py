"""The native library of the CPU kernels; everything else stands in setup.cfg.

A plain shared library of C, loaded by ctypes: it links to neither Python nor torch, so that one build serves every
version of both. Without a C compiler the package installs without it, and works on the reference backend.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, PlatformError

CPU = Path("speechbrain_mamba/ops/backends/cpu")

kernels = Extension(
    "speechbrain_mamba.ops.backends.cpu._kernels",
    sources=sorted(str(path) for path in CPU.glob("csrc/*.c")),
    depends=sorted(str(path) for path in CPU.glob("csrc/*.h")),
    # Not -march: the library carries several instruction sets and chooses at run time. No -ffast-math: it drops the
    # handling of NaN and of the numbers that exp is built from.
    extra_compile_args=["-O3", "-g0", "-std=gnu11", "-pthread", "-fno-math-errno", "-fno-trapping-math"],
    extra_link_args=["-pthread"],
    optional=True,
)


class BuildLibrary(build_ext):
    """Names the library without Python's version, which it does not depend on, and says so when it cannot be built."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CCompilerError, PlatformError):
            self.warn(
                "no CPU kernels were built, as no C compiler that works was found: speechbrain_mamba works, but "
                "slowly, on its reference backend"
            )

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"


class PlatformWheel(bdist_wheel):
    """Tags the wheel for any Python 3 of one platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[kernels], cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel})
