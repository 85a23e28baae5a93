"""What pyproject.toml cannot say: the native library of the CPU kernels, the recipes in the wheel, and its tag.

The library is a plain shared library of C, loaded by ctypes: it links to neither Python nor torch, so that one build
serves every version of both. Without a C compiler the package installs without it and runs on the reference backend.
"""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, PlatformError

PACKAGE = "speechbrain_mamba"
CPU = Path(PACKAGE, "ops/backends/cpu")
SHARED = {"hparams": ("*.yaml",), "recipes": ("*.py", "*.md")}
"""Folders beside the package that the wheel carries in ``speechbrain_mamba/share``, and which of their files."""

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


class CleanBuild(build):
    """Builds from nothing: files of an earlier build, moved or deleted since, must not get into a wheel."""

    def run(self):
        for folder in (self.build_lib, self.build_temp):
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


class BuildPackage(build_py):
    """Adds hyper-parameter files and recipes, except to an editable install, which finds them in the checkout."""

    def _shared_files(self):
        target = Path(self.build_lib, PACKAGE, "share")
        for folder, patterns in SHARED.items():
            for source in sorted(path for pattern in patterns for path in Path(folder).rglob(pattern)):
                yield source, target / source

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._shared_files():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode=True):
        shared = [] if self.editable_mode else [str(target) for _, target in self._shared_files()]
        return super().get_outputs(include_bytecode) + shared


class BuildLibrary(build_ext):
    """Names the library without Python's version, which it does not depend on, and says so when it cannot be built."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CCompilerError, PlatformError):
            self.warn(
                "the CPU kernels were not built, because no working C compiler was found: speechbrain_mamba works, but "
                "slowly, on its reference backend"
            )

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"


class PlatformWheel(bdist_wheel):
    """Tags the wheel for any Python 3: of one platform with the native library, of any platform without it."""

    def get_tag(self):
        built = Path(self.get_finalized_command("build").build_lib, CPU, "_kernels.so").exists()
        self.root_is_pure = not built
        return "py3", "none", super().get_tag()[2] if built else "any"


setup(
    ext_modules=[kernels],
    cmdclass={"build": CleanBuild, "build_py": BuildPackage, "build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
