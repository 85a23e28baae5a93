"""The page of the command demo: what it does, how it is laid out, and that only this machine reaches it."""

import base64
import itertools
import json
import os
import socket
import sys
import threading
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.cli.page_layout import tell_mistakes
from speechbrain_mamba.cli.page_listening import IDLE, Listeners
from speechbrain_mamba.cli.page_work import PageWork
from speechbrain_mamba.dataio.recordings import RecordingReader


@pytest.fixture(scope="module")
def make_work(models, tmp_path_factory):
    """Make the work of the page with tiny models; a recognizer may be named."""

    def make(recognizer="streaming_recognizer", **options):
        choices = [ModelChoice(str(models / name)) for name in ("separator", recognizer, "synthesizer")]
        return PageWork(*choices, tmp_path_factory.mktemp("page"), **options)

    return make


@pytest.fixture(scope="module")
def work(make_work):
    return make_work()


def test_separation(work, place, figures):
    made = work.separate(place / "stereo.wav")
    assert [path.name for path in made.files] == ["speaker1.wav", "speaker2.wav"]
    assert {soundfile.info(path).samplerate for path in made.files} == {16000}  # as the recording
    assert made.picture.parent == made.files[0].parent
    assert any("channels" in notice for notice in made.notices)
    axes = figures[-1].axes[:-1]  # without the scale of levels
    assert [axis.get_title(loc="left") for axis in axes[::2]] == ["recording", "speaker 1", "speaker 2"]
    again = work.separate(place / "stereo.wav")
    assert again.files[0].parent != made.files[0].parent  # of its own, as two may ask
    assert again.files[0].read_bytes() == made.files[0].read_bytes()


def test_the_text_grows_to_that_of_the_whole(work, place, run, models):
    texts = list(work.transcribe(place / "talk.wav"))
    whole = run("stream", "talk.wav", "--quiet", "--source", models / "streaming_recognizer")[1]
    assert texts[-1] == whole.strip() and len(texts) > 1
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    assert list(work.transcribe(str(place / "talk.wav"))) == texts  # nothing is left of the request before


def spoken(name, samples, rate=16000, end=False):
    """A message of the page: a piece of a stream."""
    data = base64.b64encode(np.asarray(samples, "<f4").tobytes()).decode()
    return {"stream": name, "rate": rate, "samples": data, "end": end}


def test_a_microphone_is_heard_as_its_recording(work):
    """In pieces at another rate, while somebody else speaks."""
    torch.manual_seed(3)
    signal = (0.3 * torch.randn(16000).clamp(-3, 3)).numpy()
    soundfile.write(work.folder / "whole.wav", signal, 16000, "FLOAT")
    expected = list(work.transcribe(work.folder / "whole.wav"))[-1]
    listeners, one, other = Listeners(work.listen), "", ""
    for piece in np.array_split(signal, 5):
        one = listeners.hear(spoken(one, piece))["stream"]
        other = listeners.hear(spoken(other, piece[::-1]))["stream"]
    assert one != other and len(listeners) == 2
    assert listeners.hear(spoken(one, [], end=True)) == {"stream": one, "text": expected} and expected
    assert len(listeners) == 1


def test_a_stream_that_goes_wrong_ends_with_the_reason(work):
    listeners = Listeners(work.listen)
    name = listeners.hear(spoken("", np.zeros(4000)))["stream"]
    for message, reason in (
        (spoken(name, np.zeros(4000), rate=8000), "went from 16000 to 8000 Hz: begin again"),
        (spoken(name, np.zeros(4000)), "the text has ended: begin again"),
        (spoken("", np.full(4000, np.nan)), "NaN"),
        (spoken("", np.zeros(4000), rate=7), "has 7 Hz, but 1000 to 1000000 Hz are accepted"),
        (spoken("", [], end=True), "ended without any audio"),
    ):
        answer = listeners.hear(message)
        assert set(answer) == {"error"} and reason in answer["error"] and not len(listeners)


def test_streams_without_a_browser_are_forgotten(work, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("speechbrain_mamba.cli.page_listening.time.monotonic", lambda: now[0])
    listeners = Listeners(work.listen)
    closed, kept = (listeners.hear(spoken("", np.zeros(400)))["stream"] for _ in range(2))
    now[0] = IDLE - 1
    listeners.hear(spoken(kept, np.zeros(400)))
    now[0] = IDLE + 1
    listeners.hear(spoken("", np.zeros(400)))
    assert len(listeners) == 2
    assert "text" in listeners.hear(spoken(kept, np.zeros(400)))
    assert f"Nothing was heard for {IDLE:.0f} s" in listeners.hear(spoken(closed, np.zeros(400)))["error"]


def test_a_recognizer_that_needs_whole_recordings(make_work, place):
    work = make_work("recognizer")
    assert not work.streams
    assert list(work.transcribe(place / "talk.wav")) == [work.recognizer.transcribe_file(place / "talk.wav")]
    with pytest.raises(ValueError, match="record first"):
        work.listen()


def test_speech_by_its_seed(work, place, figures):
    made, again, other = (work.speak("one two", place / "voice.wav", "three", seed) for seed in (1, 1, 2))
    sounds = [soundfile.read(one.files[0])[0] for one in (made, again, other)]
    assert np.array_equal(sounds[0], sounds[1]) and not np.array_equal(sounds[0], sounds[2])
    assert [axis.get_title(loc="left") for axis in figures[-1].axes[:-1:2]] == ["voice", "speech"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda work, talk: work.separate(None), "There is no recording yet: choose a file, or record one"),
        (lambda work, talk: list(work.transcribe("none.wav")), "none.wav"),
        (lambda work, talk: work.speak(" ", talk, "one"), "nothing in the field for the text to say"),
        (lambda work, talk: work.speak("one", talk, ""), "nothing in the field for the words of the recording"),
        (lambda work, talk: work.speak("one", None, "one"), "There is no recording yet"),
    ],
)
def test_mistakes(work, place, request_, message):
    with pytest.raises((ValueError, OSError), match=message):
        request_(work, place / "talk.wav")


def test_long_recordings_are_refused(work, place, monkeypatch):
    monkeypatch.setattr(work, "max_seconds", 0.4)
    for ask in (work.separate, lambda path: list(work.transcribe(path)), lambda path: work.speak("one", path, "two")):
        with pytest.raises(
            ValueError, match=r"longer than 0.4 s, which is the most that this page takes: .* any length"
        ):
            ask(place / "talk.wav")


def test_long_recordings_are_not_read_to_their_end(work, place, monkeypatch):
    blocks = RecordingReader.blocks
    read = []
    monkeypatch.setattr(
        RecordingReader, "blocks", lambda *given: (read.append(len(block[0])) or block for block in blocks(*given))
    )
    soundfile.write(place / "hours.wav", np.zeros(40 * 8000), 8000)
    monkeypatch.setattr(work, "max_seconds", 2.5)
    with pytest.raises(ValueError, match=r"longer than 2.5 s"):
        work.separate(place / "hours.wav")
    assert sum(read) == 3 * 8000


def test_only_files_of_the_last_requests_are_kept(work, place, monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.cli.page_work.KEPT", 2)
    monkeypatch.setattr("speechbrain_mamba.cli.page_work.plot_sounds", lambda path, *_: path.touch())
    made = [work.separate(place / "voice.wav") for _ in range(4)]
    assert [one.picture.exists() for one in made] == [False, False, True, True]


def test_texts_of_the_page_name_files_by_their_names(work):
    work.folder.joinpath("uploads").mkdir(exist_ok=True)
    file = work.folder / "uploads" / "0a1b" / "my talk.wav"
    assert (
        work.shorten(f"'{file}' is empty. '/elsewhere/talk.wav' too.")
        == "'my talk.wav' is empty. '/elsewhere/talk.wav' too."
    )


def test_mistakes_are_told_in_the_page_and_faults_are_not(monkeypatch):
    class Told(Exception):
        def __init__(self, message, **options):
            super().__init__(message)

    monkeypatch.setitem(sys.modules, "gradio", types.SimpleNamespace(Error=Told))
    faults = {"fault": lambda: {}["key"], "of others": lambda: int("x")}

    def grow():
        yield "a"
        PageWork._checked(types.SimpleNamespace(), None)

    with pytest.raises(Told, match="There is no recording yet"):
        list(tell_mistakes(grow)())
    with pytest.raises(Told, match="There is no recording yet"):
        tell_mistakes(lambda: PageWork._checked(types.SimpleNamespace(), None))()
    for error, fault in zip((KeyError, ValueError), faults.values()):
        with pytest.raises(error):
            tell_mistakes(fault)()


def test_without_gradio_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, out, err = run("demo")
    assert (code, out) == (1, "") and 'pip install "speechbrain_mamba[demo]"' in err


@pytest.fixture
def launched(monkeypatch, run, models):
    """Run the command, which is asked something while the page is there; answers what the command printed."""
    pytest.importorskip("gradio", reason="the package gradio is not installed")
    import uvicorn

    def launched(ask, *options, port):
        found = []

        def serve(server, sockets):
            thread = threading.Thread(target=original, args=(server, sockets))
            thread.start()
            try:
                found.append(ask())
            finally:
                server.should_exit = True
                thread.join()

        original = uvicorn.Server.run
        monkeypatch.setattr(uvicorn.Server, "run", serve)
        sources = [
            f"--{kind}={models / name}"
            for kind, name in (
                ("separator", "separator"), ("recognizer", "streaming_recognizer"), ("synthesizer", "synthesizer"),
            )
        ]  # fmt: skip
        return run("demo", *sources, "--port", port, *options), found

    return launched


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_the_page_serves_this_machine_only(launched, figures, place, monkeypatch):
    port = free_port()
    elsewhere = place / "elsewhere"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(elsewhere))

    def ask():
        from gradio_client import Client, handle_file

        client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=place / "downloads")
        *speakers, picture, _ = client.predict(handle_file(place / "voice.wav"), api_name="/separate")
        with pytest.raises(Exception, match="nothing in the field for the text to say"):
            client.predict("", handle_file(place / "voice.wav"), "one", 1, api_name="/speak")
        (place / "empty.wav").touch()
        with pytest.raises(Exception, match=r"The audio file 'empty.wav' is empty"):
            client.predict(handle_file(place / "empty.wav"), api_name="/separate")
        listener = next(part for part in client.config["components"] if part["props"].get("server_fns"))
        asked = {"component_id": listener["id"], "fn_name": "hear", "session_hash": "one"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/gradio_api/component_server/",
            json.dumps(asked | {"data": spoken("", np.zeros(4000))}).encode(),
            {"Content-Type": "application/json"},
        )
        heard = json.load(urllib.request.urlopen(request))
        uploads = os.environ["GRADIO_TEMP_DIR"]
        assert list(Path(uploads).rglob("voice.wav"))
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), 1):
            pass  # another address of this machine
        return speakers, picture, heard, uploads

    (code, out, err), [(speakers, picture, heard, uploads)] = launched(ask, port=port)
    assert code == 0, err
    assert len(speakers) == 2 and picture and "text" in heard
    assert not Path(uploads).exists() and not elsewhere.exists()  # recordings end with the page
    assert os.environ["GRADIO_TEMP_DIR"] == str(elsewhere)
    assert f"The page is at http://127.0.0.1:{port}." in out


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(launched):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        (code, _, err), found = launched(lambda: None, port=one.getsockname()[1])
    assert code == 1 and not found and "cannot be taken (Address already in use): give another --port" in err
