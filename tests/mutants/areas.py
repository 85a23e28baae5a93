"""What is mutated, area by area, and which tests are expected to notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """Source files and tests, both as patterns relative to the root of the repository."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


def _package(name: str, *tests: str) -> Area:
    """A folder of the package: its tests and doctests, and those of what stands right on it."""
    return Area((f"speechbrain_mamba/{name}/**/*.py",), (f"tests/{name}", f"speechbrain_mamba/{name}", *tests))


AREAS = {
    "nnet": _package("nnet", "tests/lobes"),
    "lobes": _package("lobes", "tests/decoders"),
    "decoders": _package("decoders", "tests/lobes/test_vall_e.py", "tests/lobes/test_transformer_asr.py"),
    "codecs": _package("codecs", "tests/dataio/test_tokenize_speech.py"),
    "dataio": _package("dataio", "tests/hparams"),
    "evaluation": _package("evaluation"),
    "utils": _package("utils"),
    "inference": _package("inference"),
    "recipes-separation": Area(("recipes/separation/*.py",), ("tests/recipes/test_*separation*.py",)),
    "recipes-asr": Area(("recipes/asr/*.py",), ("tests/recipes/test_*asr*.py", "tests/dataio/test_librispeech.py")),
    "recipes-tts": Area(("recipes/tts/*.py",), ("tests/recipes/test_*tts*.py",)),
    "hparams": Area(("hparams/**/*.yaml",), ("tests/hparams/test_settings.py",)),
}
