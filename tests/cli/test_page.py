"""The page of the command demo: what it does, how it is laid out, and that only this machine reaches it."""

import itertools
import sys
import types

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.cli.model_choice import ModelChoice
from speechbrain_mamba.cli.page_layout import tell_mistakes
from speechbrain_mamba.cli.page_work import PageWork


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


@pytest.mark.parametrize(("kind", "scale"), [(np.int16, 32767), (np.float32, 1)])
def test_a_microphone_is_heard_as_its_recording(work, kind, scale):
    """Pieces of two channels and another rate, two people in turns."""
    torch.manual_seed(3)
    signal = (0.3 * torch.randn(16000).clamp(-3, 3)).numpy()
    soundfile.write(work.folder / "whole.wav", signal, 16000, "FLOAT")
    expected = list(work.transcribe(work.folder / "whole.wav"))[-1]
    stereo = (np.stack([signal, signal], 1) * scale).astype(kind)
    one, other = work.listen(), work.listen()
    for piece in np.array_split(stereo, 5):
        one.add(16000, piece)
        other.add(16000, piece[::-1])
    assert one.finish() == expected == one.text and expected
    with pytest.raises(ValueError, match="went from 16000 to 8000 Hz: begin again"):
        other.add(8000, piece)


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
        with pytest.raises(ValueError, match=r"has 0 s, but this page takes 0.4 s at most: .* take any length"):
            ask(place / "talk.wav")


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
    gradio = pytest.importorskip("gradio", reason="the package gradio is not installed")

    def launched(ask, *options, port):
        found = []
        monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: found.append(ask(page)))
        sources = [
            f"--{kind}={models / name}"
            for kind, name in (
                ("separator", "separator"), ("recognizer", "streaming_recognizer"), ("synthesizer", "synthesizer"),
            )
        ]  # fmt: skip
        return run("demo", *sources, "--port", port, *options), found

    return launched


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_the_page_serves_this_machine_only(launched, figures):
    port = free_port()

    def ask(page):
        from gradio_client import Client, handle_file

        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        mixture = page.default_config.blocks[min(client_inputs(page))].value["path"]
        *speakers, picture, _ = client.predict(handle_file(mixture), api_name="/separate")
        with pytest.raises(Exception, match="nothing in the field for the text to say"):
            client.predict("", handle_file(mixture), "one", 1, api_name="/speak")
        return speakers, picture, page.local_url, page.share_url

    def client_inputs(page):
        return [key for key, block in page.default_config.blocks.items() if getattr(block, "value", None)
                and isinstance(block.value, dict) and "path" in block.value]  # fmt: skip

    (code, out, err), [(speakers, picture, address, shared)] = launched(ask, port=port)
    assert code == 0, err
    assert len(speakers) == 2 and picture and shared is None
    assert address.startswith(f"http://127.0.0.1:{port}")
    assert f"The page is at http://127.0.0.1:{port}." in out


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(launched):
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        (code, _, err), found = launched(lambda page: None, port=one.getsockname()[1])
    assert code == 1 and not found and "is taken: give another --port" in err
