"""The script of the page that sends what a microphone hears, in Chromium, with a server that is slow."""

import base64
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.cli.page_layout import MICROPHONE
from speechbrain_mamba.dataio.resampling import resample

CHROMIUM = shutil.which("chromium")
PAGE = """<!doctype html><div id="element">{html}</div><script>
const messages = [];
let asked = 0, most = 0;
const server = {{ hear: async (message) => {{
  messages.push(message);
  most = Math.max(most, ++asked);
  await new Promise((done) => setTimeout(done, 700));
  asked--;
  const text = `${{messages.length}}`;
  return messages.length == window.failing ? {{ error: "What a pity." }} : {{ stream: "one", text }};
}} }};
new Function("element", "server", {script})(document.getElementById("element"), server);
</script>"""


@pytest.fixture(scope="module")
def sound():
    torch.manual_seed(0)
    return 0.2 * torch.randn(2 * 48000).clamp(-3, 3)


@pytest.fixture
def page(sound, tmp_path):
    """The page with a microphone that plays the sound once, a second after it was opened."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no program chromium")
    soundfile.write(tmp_path / "sound.wav", torch.cat([torch.zeros(48000), sound, torch.zeros(60 * 48000)]), 48000)
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags.append(f"--use-file-for-fake-audio-capture={tmp_path / 'sound.wav'}%noloop")
    html = MICROPHONE.with_suffix(".html").read_text()
    body = PAGE.format(html=html, script=json.dumps(MICROPHONE.with_suffix(".js").read_text()))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.route("**/*", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto("http://127.0.0.1/")  # an address that may have the microphone
        yield page
        browser.close()


@pytest.mark.slow
def test_a_slow_server_gets_all_that_was_heard(page, sound):
    """Gradio's own stream kept the last piece of those that came while one was worked on."""
    page.get_by_role("button").click()
    page.wait_for_function("Number.parseFloat(document.querySelector('.state').textContent) > 4.5", timeout=120000)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Listen to the microphone").wait_for(timeout=120000)
    messages = page.evaluate("messages")
    assert page.evaluate("most") == 1 and len(messages) >= 3
    assert [message["stream"] for message in messages] == ["", *["one"] * (len(messages) - 1)]
    assert [message["end"] for message in messages] == [False] * (len(messages) - 1) + [True]
    assert page.get_by_role("textbox").input_value() == str(len(messages))
    (rate,) = {message["rate"] for message in messages}
    heard = np.concatenate([np.frombuffer(base64.b64decode(message["samples"]), "<f4") for message in messages])
    said = resample(sound[None], 48000, rate)[0].numpy()
    size = len(heard) + len(said)
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(said, size).conj(), size)
    assert match.max() / np.linalg.norm(heard) / np.linalg.norm(said) > 0.98  # at one place, so that no sample lacks


@pytest.mark.slow
def test_an_error_is_shown_and_ends_the_stream(page):
    page.evaluate("window.failing = 2")
    page.get_by_role("button").click()
    page.get_by_text("What a pity.").wait_for(timeout=120000)
    page.get_by_role("button", name="Listen to the microphone").wait_for(timeout=120000)
    assert len(page.evaluate("messages")) == 2
