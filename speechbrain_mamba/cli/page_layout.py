"""How the page of the command demo looks, by Gradio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechbrain_mamba.cli.page_work import Listening, Made, PageWork
from speechbrain_mamba.utils.mistakes import MISTAKES, is_mistake, words_of

TITLE = "speechbrain_mamba"


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


def tell_mistakes(function: Callable) -> Callable:
    """A function, or a generator, whose mistakes of the user are told in the page, and not in the terminal."""

    def told(error: BaseException) -> BaseException:
        return import_gradio().Error(words_of(error), print_exception=False) if is_mistake(error) else error

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
        return [*map(str, made.files), str(made.picture), "\n\n".join(made.notices)]

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\nNothing that you record leaves this machine.")
        with gradio.Tab("Separate"):
            mixed = _recording(gradio, "Recording of several people", mixture)
            button = gradio.Button("Separate", variant="primary")
            with gradio.Row():
                players = [_player(gradio, f"Speaker {number}") for number in range(1, work.separator.speakers + 1)]
            made = [*players, _picture(gradio), gradio.Markdown()]
            button.click(tell_mistakes(lambda path: show(work.separate(path))), mixed, made, api_name="separate")
        with gradio.Tab("Transcribe"):
            said = _recording(gradio, "Recording", voice)
            button = gradio.Button("Transcribe", variant="primary")
            text = gradio.Textbox(label="Text", lines=3)
            button.click(tell_mistakes(work.transcribe), said, text, api_name="transcribe")
            if work.streams:
                _listen(gradio, work)
        with gradio.Tab("Speak"):
            wanted = gradio.Textbox("four one six three", label="Text to say")
            with gradio.Row():
                prompt = _recording(gradio, "Recording of the voice, some seconds", voice)
                words = gradio.Textbox(voice_text, label="What is said in the recording", lines=3)
            seed = gradio.Number(1, label="Seed: the same one gives the same speech", precision=0, minimum=0)
            button = gradio.Button("Speak", variant="primary")
            made = [_player(gradio, "Speech"), _picture(gradio), gradio.Markdown()]

            def speak(text: str, prompt: str | None, words: str, seed: int | None) -> list[Any]:
                return show(work.speak(text, prompt, words, None if seed is None else int(seed)))

            button.click(tell_mistakes(speak), [wanted, prompt, words, seed], made, api_name="speak")
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
    """A microphone whose text grows while one speaks."""
    heard = gradio.State(None)
    microphone = gradio.Audio(
        label="Or speak: the text grows while you do", sources=["microphone"], streaming=True, type="numpy", buttons=[]
    )
    text = gradio.Textbox(label="Text so far", lines=3)

    def begin() -> tuple[Listening, str]:
        return work.listen(), ""

    def go_on(sound: tuple[int, Any] | None, listening: Listening | None) -> tuple[Listening | None, str]:
        if sound is None:
            return listening, "" if listening is None else listening.text
        listening = listening or work.listen()
        return listening, listening.add(*sound)

    def end(listening: Listening | None) -> tuple[None, str]:
        return None, "" if listening is None else listening.finish()

    # one after another in the order of the microphone, and none left out while another one is worked on
    order: dict[str, Any] = {"concurrency_id": "listening", "concurrency_limit": 1, "trigger_mode": "multiple"}
    order |= {"api_visibility": "private", "show_progress": "hidden"}
    microphone.start_recording(tell_mistakes(begin), None, [heard, text], **order)
    microphone.stream(tell_mistakes(go_on), [microphone, heard], [heard, text], stream_every=0.5, **order)
    microphone.stop_recording(tell_mistakes(end), heard, [heard, text], **order)
