"""The card of a model: ``README.md`` with the Hub's metadata, what was measured, and an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from speechbrain_mamba import __version__
from speechbrain_mamba.inference.bundled import CARD
from speechbrain_mamba.inference.run_facts import RunFacts, metric_of
from speechbrain_mamba.utils.yaml_text import parse_yaml

UNKNOWN = "unknown"
"""The Hub's word for a license that is not stated."""

INTEGERS = (
    "Weights of linear layers are 8-bit integers: it computes in int8 on CPUs that have the instructions, else in "
    "fp32. Classes of speechbrain_mamba load it, SpeechBrain's own do not. Its scores were measured with float weights."
)
"""What a card says of a model whose weights are 8-bit integers."""

PAPER = "https://arxiv.org/abs/2407.09732"


class _Kind(NamedTuple):
    """What a card says of all models of a kind."""

    task: str
    """The Hub's name of the task."""

    does: str
    """What the model does."""

    example: str
    """Python that uses it; ``SOURCE`` stands for where it is."""

    tags: tuple[str, ...]


_KINDS = {
    "separator": _Kind(
        "audio-to-audio",
        "separates people who speak at the same time",
        """from speechbrain_mamba.inference.separation import SpeechSeparator

separator = SpeechSeparator.from_hparams("SOURCE")
estimates = separator.separate_file("mixture.wav")  # (channels, samples, speakers), at the rate of the file
""",
        ("speech-separation",),
    ),
    "recognizer": _Kind(
        "automatic-speech-recognition",
        "transcribes speech",
        """from speechbrain_mamba.inference.recognition import Recognizer

recognizer = Recognizer.from_hparams("SOURCE")
print(recognizer.transcribe("talk.wav").text)
""",
        ("speech-recognition",),
    ),
    "synthesizer": _Kind(
        "text-to-speech",
        "says a text in the voice of a recording",
        """from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

synthesizer = SpeechSynthesizer.from_hparams("SOURCE")
spoken = synthesizer.synthesize("one two", "voice.wav", prompt_text="three four", seed=1)
print(spoken.seconds, spoken.sample_rate)
""",
        ("speech-synthesis",),
    ),
    "speaker encoder": _Kind(
        "audio-classification",
        "turns speech into an embedding of its speaker",
        """from speechbrain_mamba.dataio.recordings import read_recording
from speechbrain_mamba.inference.judges import load_speaker_encoder

embed = load_speaker_encoder("SOURCE")
embedding = embed(read_recording("voice.wav", RATE).signal[0], RATE)
""",
        ("speaker-recognition",),
    ),
    "codec": _Kind(
        "feature-extraction",
        "turns speech into tokens and back",
        """import torch

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.dataio.recordings import read_recording

codec = load_codec("SOURCE")
wav = read_recording("voice.wav", codec.sample_rate).signal[:1]
codes, lengths = codec.encode(wav, torch.tensor([wav.shape[1]]))
speech, _ = codec.decode(codes, lengths)
""",
        ("audio-codec",),
    ),
}

_DATASETS = {
    "wsj0mix": ("wsj0-2mix", "WSJ0-2mix"), "librispeech": ("openslr/librispeech_asr", "LibriSpeech"),
    "fsdd": ("free-spoken-digit-dataset", "Free Spoken Digit Dataset"),
    "mini": ("speechbrain-mamba-synthetic-voices", "synthetic voices of speechbrain_mamba"),
    "speech_to_intent": ("speech-to-intent-benchmark", "Picovoice speech-to-intent benchmark"),
}  # fmt: skip
"""By the corpus of the hyper-parameters, its id and its name."""

_SOURCES = re.compile(r'((?:from_hparams|load_codec|load_speaker_encoder)\()"[^"\n]*"')


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of a model.

    Attributes
    ----------
    kind : str
        One of :data:`~speechbrain_mamba.inference.pretrained.KINDS`.
    name : str
        Its name.
    source : str
        Where it is: a folder, or a Hub id.
    parameters : int
        Numbers in its weights.
    sample_rate : int
        Samples per second of its audio.
    license, language : str
        As the Hub calls them.
    run : RunFacts
        How it was trained and tested.
    origin : str
        A sentence on where its weights come from, if not from a training with this package.
    mixers : list of str
        Its layers, one line for each stack.
    integers : bool
        Whether its weights are 8-bit integers.
    """

    kind: str
    name: str
    source: str
    parameters: int
    sample_rate: int
    license: str = UNKNOWN
    language: str = "en"
    run: RunFacts = field(default_factory=RunFacts)
    origin: str = ""
    mixers: list[str] = field(default_factory=list)
    integers: bool = False


def write_card(facts: CardFacts) -> str:
    """The text of a card.

    Example
    -------
    >>> text = write_card(CardFacts("separator", "two-voices", "me/two-voices", 2_210_176, 8000, "apache-2.0"))
    >>> "pipeline_tag: audio-to-audio" in text, 'from_hparams("me/two-voices")' in text, "2.21 M" in text
    (True, True, True)
    """
    kind, run = _KINDS[facts.kind], facts.run
    corpus = str(run.settings.get("corpus", ""))
    dataset = _DATASETS.get(corpus, (corpus or UNKNOWN, corpus or "a corpus that is not named"))
    results = list(_results(facts, kind, dataset))
    metadata = ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="speechbrain",
        pipeline_tag=kind.task,
        tags=["speechbrain", "speechbrain_mamba", "mamba", *kind.tags],
        model_name=facts.name,
        eval_results=results or None,
        metrics=sorted({metric_of(score.key) for one in run.results for score in one.scores}) or None,
        datasets=[dataset[0]] if "/" in dataset[0] else None,
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---\n# {facts.name}",
        f"A {facts.kind} with {facts.parameters / 1e6:.2f} M parameters, at {facts.sample_rate / 1000:g} kHz: it "
        f"{kind.does}. Made with speechbrain_mamba {__version__}: Mamba for SpeechBrain, after "
        f"[Speech Slytherin]({PAPER}).",
        f"```python\n{_example(facts, kind)}```",
    ]
    if facts.integers:
        sections.append(INTEGERS)
    if facts.kind in ("separator", "recognizer"):
        word, file = ("separate", "mixture.wav") if facts.kind == "separator" else ("transcribe", "talk.wav")
        sections.append(f"Or on the command line: `speechbrain-mamba {word} {file} --source {facts.source}`.")
    sections += ["## Results", _result_text(run, dataset[1]), "## Training", _training_text(facts, dataset[1])]
    license_text = (
        "The license of the weights is not stated."
        if facts.license == UNKNOWN
        else f"The weights have the license `{facts.license}`."
    )
    sections += ["## License", license_text, ""]
    return "\n\n".join(sections)


def _example(facts: CardFacts, kind: _Kind) -> str:
    return kind.example.replace("SOURCE", facts.source).replace("RATE", str(facts.sample_rate))


def _results(facts: CardFacts, kind: _Kind, dataset: tuple[str, str]) -> Iterator[EvalResult]:
    for one in facts.run.results:
        for score in one.scores:
            yield EvalResult(
                task_type=kind.task,
                dataset_type=dataset[0],
                dataset_name=dataset[1],
                dataset_split=one.name,
                metric_type=metric_of(score.key),
                metric_name=score.label,
                metric_value=round(score.value, 3),
            )


def _result_text(run: RunFacts, dataset: str) -> str:
    if not run.results:
        return "It was not tested before it was exported."
    blocks = []
    for one in run.results:
        counts = ", ".join(f"{value} {key}" for key, value in one.counts.items())
        lines = [f"On the set `{one.name}` of {dataset}{f' ({counts})' if counts else ''}:", "", "| score | value |"]
        lines += ["| --- | --- |", *(f"| {score.label} | {score.value:.2f} |" for score in one.scores)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "One training, one seed: differences from other models may be chance."])


def _training_text(facts: CardFacts, dataset: str) -> str:
    run, lines = facts.run, []
    if facts.origin:
        lines.append(facts.origin)
    if run.epochs:
        lines.append(f"{run.epochs} epochs on {dataset}, {run.hours:.1f} hours.")
    lines += [f"Layers of {line}." for line in facts.mixers]
    if run.settings:
        lines += ["| setting | value |\n| --- | --- |"]
        lines[-1] += "".join(f"\n| `{key}` | {value} |" for key, value in run.settings.items())
    return "\n\n".join(lines) or "How it was trained is not recorded."


def address_card(text: str, source: str) -> str:
    """The card of a model that is now elsewhere: its examples load it from there.

    Example
    -------
    >>> address_card('model = Recognizer.from_hparams("model")', "me/model")
    'model = Recognizer.from_hparams("me/model")'
    """
    text = _SOURCES.sub(lambda match: f'{match[1]}"{source}"', text)
    return re.sub(r"(`speechbrain-mamba [^`\n]*--source )[^\s`]+", lambda match: f"{match[1]}{source}", text)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the card in a folder.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no card, or it does not begin with metadata.
    """
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"'{folder}' has no {CARD}, the card of a model: write the folder with 'speechbrain-mamba export'."
        )
    opening, *parts = path.read_text(encoding="utf-8").split("---\n", 2)
    content = parse_yaml(parts[0], f"The metadata of '{path}'") if not opening and len(parts) == 2 else None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' does not begin with metadata, YAML between two lines '---'.")
    return dict(content)
