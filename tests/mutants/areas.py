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
    "decoders": _package("decoders", "tests/lobes/synthesis", "tests/lobes/recognition/test_transformer_asr.py"),
    "codecs": _package("codecs"),
    "text": _package("text"),
    "corpora": _package("corpora"),
    "dataio": _package("dataio"),
    "training": _package("training", "tests/recipes"),
    "evaluation": _package("evaluation"),
    "utils": _package("utils", "tests/hparams"),
    "inference": _package("inference"),
    "cli": _package("cli"),
    "recipes-separation": Area(("recipes/separation/*.py",), ("tests/recipes/test_*separation*.py",)),
    "recipes-asr": Area(("recipes/asr/*.py",), ("tests/recipes/test_*asr*.py", "tests/corpora/test_librispeech.py")),
    "recipes-tts": Area(("recipes/tts/*.py",), ("tests/recipes/test_*tts*.py",)),
    "recipes-codec": Area(("recipes/codec/*.py",), ("tests/recipes/test_codec.py",)),
    "recipes-speaker": Area(("recipes/speaker/*.py",), ("tests/recipes/test_speaker.py",)),
    "hparams": Area(("hparams/**/*.yaml",), ("tests/hparams/test_settings.py",)),
}
