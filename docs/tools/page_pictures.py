"""Take the pictures of the page of `speechbrain-mamba demo` in docs/demo.md: a browser without a window uses the page.

python docs/tools/page_pictures.py docs

It needs the extras demo and dev, and Chromium (--chromium, or playwright install chromium). The microphone
is a recording of the package, which the browser plays in real time.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 300  # for each step, on a machine that has other work too


@contextlib.contextmanager
def run_demo() -> Iterator[str]:
    """Run the command with the models of the package; gives the address of its page."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "speechbrain_mamba", "demo", "--port", str(port)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        if not any("The page is at" in line for line in demo.stdout):  # until it says so, or ends
            raise SystemExit("The command demo did not start: see above.")
        yield f"http://127.0.0.1:{port}"
    finally:
        demo.terminate()
        demo.wait()


@contextlib.contextmanager
def open_browser(chromium: str | None, microphone: Path) -> Iterator[Any]:
    """Open Chromium, whose microphone plays a file once; gives a page of 1000 pixels."""
    from playwright.sync_api import sync_playwright

    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={microphone}%noloop", "--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="light")
        page.set_default_timeout(1000 * SECONDS)
        yield page
        browser.close()


def write_microphone(path: Path) -> str:
    """Write what the microphone hears: a voice, then silence; returns what is said."""
    import torch

    from speechbrain_mamba.corpora.mini.samples import SAMPLES
    from speechbrain_mamba.dataio.audio import write_audio
    from speechbrain_mamba.dataio.recordings import read_recording

    voice = read_recording(SAMPLES[0].path, 48000).signal[0]
    write_audio(path, torch.cat([torch.zeros(24000), voice, torch.zeros(60 * 48000)]), 48000)
    return SAMPLES[0].text


def take_pictures(page: Any, folder: Path, said: str) -> None:
    """Separate, listen and speak, and take a picture of each when it is done."""
    from playwright.sync_api import expect

    button = page.get_by_role("button", name="Separate", exact=True)
    button.click()
    _wait_for_pictures(page, 1)
    page.screenshot(path=folder / "page_separate.png", full_page=True)

    page.get_by_role("tab", name="Transcribe").click()
    page.get_by_role("button", name="Transcribe", exact=True).click()
    listen = page.get_by_role("button", name="Listen to the microphone")
    listen.click()
    expect(page.get_by_label("Text so far")).to_have_value(said.upper(), timeout=1000 * SECONDS)
    expect(page.get_by_label("Text", exact=True)).to_have_value(said.upper(), timeout=1000 * SECONDS)
    page.screenshot(path=folder / "page_transcribe.png", full_page=True)
    page.get_by_role("button", name="Stop", exact=True).click()
    listen.wait_for()
    expect(page.get_by_label("Text so far")).to_have_value(said.upper())

    page.get_by_role("tab", name="Speak").click()
    page.get_by_role("button", name="Speak", exact=True).click()
    _wait_for_pictures(page, 2)
    page.screenshot(path=folder / "page_speak.png", full_page=True)


def _wait_for_pictures(page: Any, number: int) -> None:
    page.wait_for_function(
        "number => [...document.querySelectorAll('.image-frame img')].filter(one => one.naturalWidth).length == number",
        arg=number,
    )
    page.wait_for_timeout(2000)  # the players draw their sounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--chromium", help="the program; by default the one in PATH, else playwright's own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        microphone = Path(place) / "microphone.wav"
        said = write_microphone(microphone)
        chromium = options.chromium or shutil.which("chromium")
        with run_demo() as address, open_browser(chromium, microphone) as page:
            page.goto(address)
            take_pictures(page, options.folder, said)


if __name__ == "__main__":
    main()
