"""The command demo."""

from __future__ import annotations

import contextlib
import os
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click

from speechbrain_mamba.cli.model_choice import RECOGNIZER, SEPARATOR, SYNTHESIZER, ModelChoice
from speechbrain_mamba.cli.options import precision_option, talk_options
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show

HOST = "127.0.0.1"
"""Nobody outside of this machine reaches the page."""


@contextlib.contextmanager
def kept_uploads(folder: Path) -> Iterator[None]:
    """Let Gradio keep what it is given and gives in a folder, and not beyond the end of the page."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


@click.command(
    cls=Command,
    section="Use a model",
    short_help="Separate, transcribe and speak in a page of your browser.",
    examples=[
        ("demo", f"a page at http://{HOST}:7860, by the models of the package"),
        ("demo --separator results/separation/mini/1234/inference --port 8000", "your model, another port"),
    ],
)
@click.option("--separator", metavar="MODEL", default=SEPARATOR, show_default=True, help="What separates.")
@click.option("--recognizer", metavar="MODEL", default=RECOGNIZER, show_default=True, help="What transcribes.")
@click.option("--synthesizer", metavar="MODEL", default=SYNTHESIZER, show_default=True, help="What speaks.")
@click.option("--device", default="auto", show_default=True, help="As for the other commands.")
@precision_option
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Of the page's address.")
@click.option("--open", "in_browser", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="The longest recording that the page takes.",
)
@talk_options
def command(
    separator: str,
    recognizer: str,
    synthesizer: str,
    device: str,
    precision: str | None,
    port: int,
    in_browser: bool,
    max_seconds: float,
    progress: bool,
) -> None:
    """Separate, transcribe and speak in a page of your browser, until Ctrl-C.

    Upload or record, see waveforms and spectrograms, play each speaker, watch the text grow, and hear a text in a
    recorded voice. Only this machine reaches the page, at 127.0.0.1. It takes pip install "speechbrain_mamba[demo]".
    """
    from speechbrain_mamba.cli.page_layout import build_page, import_gradio
    from speechbrain_mamba.cli.page_server import serve_page
    from speechbrain_mamba.cli.page_work import PageWork
    from speechbrain_mamba.corpora.mini.samples import SAMPLE_RATE, SAMPLES, mix_samples
    from speechbrain_mamba.dataio.audio import read_audio, write_audio

    with tempfile.TemporaryDirectory(prefix="speechbrain-mamba-demo-") as name, kept_uploads(Path(name) / "uploads"):
        import_gradio()
        folder = Path(name)
        separates, transcribes, speaks = (
            ModelChoice(model, device, precision) for model in (separator, recognizer, synthesizer)
        )
        work = PageWork(separates, transcribes, speaks, folder, max_seconds)
        mixture, voice = folder / "mixture.wav", folder / "voice.wav"
        write_audio(mixture, mix_samples()[0], SAMPLE_RATE)
        write_audio(voice, read_audio(SAMPLES[0].path, SAMPLE_RATE), SAMPLE_RATE)
        page = build_page(work, mixture, voice, SAMPLES[0].text)

        def ready() -> None:
            if progress:
                show(f"The page is at http://{HOST}:{port}. Ctrl-C ends it.")
            if in_browser:
                webbrowser.open(f"http://{HOST}:{port}")

        serve_page(page, HOST, port, folder, ready)
