"""How the page of the command demo looks, by Gradio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechbrain_mamba.cli.page_listening import Listeners
from speechbrain_mamba.cli.page_work import Made, PageWork
from speechbrain_mamba.utils.mistakes import MISTAKES, is_mistake, words_of

TITLE = "speechbrain_mamba"
MICROPHONE = Path(__file__).with_name("page_microphone")
"""Beside this file, with ``.html``, ``.css`` and ``.js``."""


def import_gradio() -> Any:
    """The package Gradio.

    Raises
    ------
    ImportError
        When it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            'The page is made by Gradio, which is not installed: pip install "speechbrain_mamba[demo]".'
        ) from error
    return gradio


def tell_mistakes(function: Callable, shorten: Callable[[str], str] = str) -> Callable:
    """A function, or a generator, whose mistakes of the user are told in the page, and not in the terminal; their words
    are shortened by ``shorten``."""

    def told(error: BaseException) -> BaseException:
        if not is_mistake(error):
            return error
        return import_gradio().Error(shorten(words_of(error)), print_exception=False)

    @functools.wraps(function)
    def work(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except MISTAKES as error:
            raise told(error) from error

    @functools.wraps(function)
    def generate(*arguments: Any) -> Any:
        try:
            yield from function(*arguments)
        except MISTAKES as error:
            raise told(error) from error

    return generate if inspect.isgeneratorfunction(function) else work


def build_page(work: PageWork, mixture: Path, voice: Path, voice_text: str) -> Any:
    """Lay out the page.

    Arguments
    ---------
    work : PageWork
        What it does.
    mixture, voice : Path
        Recordings that are there from the beginning: to separate and transcribe, and as the voice of a text.
    voice_text : str
        What is said in the latter.

    Returns
    -------
    gradio.Blocks
        The page, to be launched.
    """
    gradio = import_gradio()

    def show(made: Made) -> list[Any]:
        return [*map(str, made.files), str(made.picture), work.shorten("\n\n".join(made.notices))]

    tell = functools.partial(tell_mistakes, shorten=work.shorten)

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(
            f"# {TITLE}\nNothing that you record leaves this machine, and nothing of it stays when the page ends."
        )
        with gradio.Tab("Separate"):
            gradio.Markdown(work.about["separator"])
            mixed = _recording(gradio, "Recording of several people", mixture)
            button = gradio.Button("Separate", variant="primary")
            with gradio.Row():
                players = [_player(gradio, f"Speaker {number}") for number in range(1, work.separator.speakers + 1)]
            made = [*players, _picture(gradio), gradio.Markdown()]
            button.click(tell(lambda path: show(work.separate(path))), mixed, made, api_name="separate")
        with gradio.Tab("Transcribe"):
            gradio.Markdown(work.about["recognizer"])
            said = _recording(gradio, "Recording", voice)
            button = gradio.Button("Transcribe", variant="primary")
            text = gradio.Textbox(label="Text", lines=3)
            button.click(tell(work.transcribe), said, text, api_name="transcribe")
            if work.streams:
                _listen(gradio, work)
        with gradio.Tab("Speak"):
            gradio.Markdown(work.about["synthesizer"])
            wanted = gradio.Textbox("four one six three", label="Text to say")
            with gradio.Row():
                prompt = _recording(gradio, "Recording of the voice, some seconds", voice)
                words = gradio.Textbox(voice_text, label="What is said in the recording", lines=3)
            seed = gradio.Number(1, label="Seed: the same one gives the same speech", precision=0, minimum=0)
            button = gradio.Button("Speak", variant="primary")
            made = [_player(gradio, "Speech"), _picture(gradio), gradio.Markdown()]

            def speak(text: str, prompt: str | None, words: str, seed: int | None) -> list[Any]:
                return show(work.speak(text, prompt, words, None if seed is None else int(seed)))

            button.click(tell(speak), [wanted, prompt, words, seed], made, api_name="speak")
    return page


def _recording(gradio: Any, label: str, value: Path) -> Any:
    return gradio.Audio(
        str(value), label=label, sources=["upload", "microphone"], type="filepath", buttons=["download"]
    )


def _player(gradio: Any, label: str) -> Any:
    return gradio.Audio(label=label, interactive=False, type="filepath", buttons=["download"])  # none that shares


def _picture(gradio: Any) -> Any:
    return gradio.Image(show_label=False, interactive=False, type="filepath", buttons=["download", "fullscreen"])


def _listen(gradio: Any, work: PageWork) -> None:
    """A microphone whose text grows while one speaks: ``page_microphone.js``."""
    listeners = Listeners(work.listen)

    def hear(message: dict[str, Any]) -> dict[str, str]:  # Gradio marks it, which a method does not take
        return listeners.hear(message)

    gradio.HTML(
        html_template=MICROPHONE.with_suffix(".html").read_text("utf-8"),
        css_template=MICROPHONE.with_suffix(".css").read_text("utf-8"),
        js_on_load=MICROPHONE.with_suffix(".js").read_text("utf-8"),
        server_functions=[hear],
        container=True,
    )
