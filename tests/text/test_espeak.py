"""Speech and phonemes from espeak-ng."""

import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speechbrain_mamba.text import espeak, espeak_engine

needs_espeak = pytest.mark.skipif(not espeak.espeak_available(), reason="espeakng-loader is not installed")


@needs_espeak
def test_speech_has_a_plausible_length_and_level():
    signal, sample_rate = espeak.synthesize("the old clock stopped at noon", rate=150)
    assert sample_rate == 22050
    assert signal.dtype == torch.float32
    assert 1.0 < len(signal) / sample_rate < 4.0
    assert 0.05 < float(signal.abs().max()) < 1.0


def melody(**settings):
    """Pitch in Hz of each voiced piece of 93 ms: where its autocorrelation peaks, within 60 to 400 Hz."""
    signal = espeak.synthesize("seven three zero nine we are all away", **settings)[0].double()
    pieces = signal.unfold(0, 2048, 512)
    pieces = pieces[pieces.square().mean(dim=1) > 0.1 * signal.square().mean()]
    spectrum = torch.fft.rfft(pieces - pieces.mean(dim=1, keepdim=True), 4096)
    correlation = torch.fft.irfft(spectrum.abs().square())
    peak, lag = correlation[:, 55:368].max(dim=1)
    return 22050 / (55 + lag[peak > 0.5 * correlation[:, 0]]).double()


def height(**settings):
    return float(melody(**settings).median())


def liveliness(**settings):
    return float(melody(**settings).log2().std())


def seconds(**settings):
    return len(espeak.synthesize("seven three zero nine", **settings)[0]) / 22050


def loudness(**settings):
    return float(espeak.synthesize("seven three zero", **settings)[0].square().mean().sqrt())


@needs_espeak
@pytest.mark.parametrize(
    ("measure", "less", "more", "factor"),
    [
        (height, {"pitch": 10}, {"pitch": 40}, 1.1),
        (height, {"pitch": 40}, {"pitch": 80}, 1.2),
        (height, {"variant": "m3"}, {"variant": "f2"}, 1.5),
        (height, {"variant": "f4", "pitch": 30}, {"variant": "f4", "pitch": 70}, 1.1),
        (liveliness, {"pitch_range": 0}, {"pitch_range": 30}, 2),
        (liveliness, {"pitch_range": 30}, {"pitch_range": 99}, 1.5),
        (seconds, {"rate": 200}, {"rate": 120}, 1.3),
        (seconds, {"rate": 450}, {"rate": 200}, 1.3),
        (loudness, {"volume": 30}, {"volume": 60}, 1.5),
        (loudness, {"volume": 5}, {"volume": 30}, 2),
    ],
)
def test_parameters_are_heard(measure, less, more, factor):
    assert measure(**more) > factor * measure(**less)


@needs_espeak
@pytest.mark.parametrize(
    "settings", [{"pitch": 0}, {"pitch": 99}, {"pitch_range": 0}, {"pitch_range": 99}, {"rate": 80}, {"rate": 450}]
)
def test_the_ends_of_the_ranges_are_spoken_and_not_kept(settings):
    before = seconds(), height()
    assert seconds(**settings) > 0.3
    assert seconds() == pytest.approx(before[0], rel=0.02)
    assert height() == pytest.approx(before[1], rel=0.05)


@needs_espeak
def test_the_default_is_an_american_man_at_half_the_volume():
    defaults = {"voice": "en-us", "variant": "m3", "pitch": 50, "pitch_range": 50, "rate": 175, "volume": 50}
    for measure, tolerance in ((height, 0.05), (liveliness, 0.2), (seconds, 0.03), (loudness, 0.03)):
        assert measure() == pytest.approx(measure(**defaults), rel=tolerance)
    assert loudness(volume=0) == 0 and loudness(volume=200) > 2 * loudness()


class Engine:
    """Notes what is asked of the library, by the numbers in espeak-ng's speak_lib.h."""

    names = ("rate", "volume", "pitch", "pitch_range")

    def __init__(self):
        self.library, self.asked = self, {}

    def set_voice(self, name):
        self.asked = {"voice": name}

    def espeak_SetParameter(self, parameter, value, relative):
        assert relative == 0
        self.asked[self.names[parameter - 1]] = value

    def synthesize(self, text):
        self.asked["text"] = text
        return np.array([-32768, 0, 16384], np.int16)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, {"voice": "en-us+m3", "pitch": 50, "pitch_range": 50, "rate": 175, "volume": 50}),
        ({"voice": "de", "variant": None}, {"voice": "de", "pitch": 50, "pitch_range": 50, "rate": 175, "volume": 50}),
        (
            {"voice": "en", "variant": "f2", "pitch": 41, "pitch_range": 42, "rate": 143, "volume": 44},
            {"voice": "en+f2", "pitch": 41, "pitch_range": 42, "rate": 143, "volume": 44},
        ),
    ],
)
def test_the_library_is_asked_for_each_setting(monkeypatch, settings, asked):
    engine = Engine()
    monkeypatch.setattr(espeak, "_engine", lambda process: engine)
    signal, sample_rate = espeak.synthesize("hello", **settings)
    assert engine.asked == {**asked, "text": "hello"}
    assert signal.tolist() == [-1, 0, 0.5] and sample_rate == 22050


@needs_espeak
def test_the_voice_is_the_language_that_speaks():
    def length(voice):
        return len(espeak.synthesize("seven three zero nine we are all away", voice=voice)[0])

    assert length("de") > 1.1 * length("en-us") > 1.13 * length("en-gb-scotland")
    assert seconds(variant=None) > 1.02 * seconds()
    assert height(variant=None) < 0.8 * height(variant="f2")


@needs_espeak
def test_samples_are_those_of_sixteen_bits():
    signal = espeak.synthesize("hello", volume=40)[0] * 32768
    assert torch.equal(signal, signal.round())
    assert 3000 < float(signal.abs().max()) < 32768


@needs_espeak
def test_a_text_is_spoken_alone():
    alone = seconds()
    for _ in range(2):
        assert seconds() == pytest.approx(alone, rel=0.02)
    assert len(espeak.synthesize("")[0]) < 0.1 * 22050
    longer = len(espeak.synthesize("seven three zero nine. ü é, seven three zero nine")[0]) / 22050
    assert longer > 1.8 * alone


@needs_espeak
def test_phonemes_of_several_clauses():
    assert espeak.phonemes("seven, three. zero!") == "sˈɛvən θɹˈiː zˈiəɹoʊ"
    assert espeak.phonemes("") == ""


@needs_espeak
def test_phonemes_are_those_of_the_language():
    assert espeak.phonemes("bath", "en-us") == espeak.phonemes("bath") == "bˈæθ"
    assert espeak.phonemes("bath", "en-gb-x-rp") == "bˈɑːθ"
    assert espeak.phonemes("fünf", "de") == "fˈʏnf"
    assert espeak.phonemes("bath") == "bˈæθ"
    espeak.synthesize("bath", voice="de")
    assert espeak.phonemes("bath") == "bˈæθ"


@needs_espeak
def test_the_version_is_a_number():
    assert re.fullmatch(r"1(\.\d+)+(-\w+)?", espeak.espeak_version())


@needs_espeak
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"voice": "nowhere"}, "no voice 'nowhere': use the name"),
        ({"voice": "nowhere", "variant": None}, "no voice 'nowhere': use the name"),
        ({"variant": "nobody"}, "no voice variant 'nobody': choose one of .*f1.*m3"),
        ({"pitch": 100}, "pitch is 100, but must lie in 0 to 99"),
        ({"pitch": -1}, "pitch is -1"),
        ({"pitch_range": -1}, "pitch_range is -1, but must lie in 0 to 99"),
        ({"pitch_range": 100}, "pitch_range is 100"),
        ({"rate": 79}, "rate is 79, but must lie in 80 to 450"),
        ({"rate": 451}, "rate is 451"),
        ({"volume": -1}, "volume is -1, but must lie in 0 to 200"),
        ({"volume": 201}, "volume is 201"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        espeak.synthesize("hello", **settings)


def _speak_in_child(queue):
    queue.put(
        [float(espeak.synthesize(text, variant="f5")[0].double().square().sum()) for text in ("hello", "goodbye")]
    )


@needs_espeak
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_process_speaks_as_if_nobody_had_spoken_before():
    context = multiprocessing.get_context("fork")
    spoken = []
    for _ in range(2):
        espeak.synthesize("one two three four five", variant="f1")
        queue = context.SimpleQueue()
        child = context.Process(target=_speak_in_child, args=(queue,))
        child.start()
        spoken.append(queue.get())
        child.join()
    assert spoken[0] == spoken[1]


def _speak_and_tell(queue):
    queue.put(len(espeak.synthesize("hello")[0]))


@needs_espeak
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_forked_while_somebody_speaks_can_speak():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    espeak.synthesize("hello")
    child = context.Process(target=_speak_and_tell, args=(queue,))
    with espeak._lock:
        child.start()
    try:
        assert queue.get(timeout=600) > 0
    finally:
        child.kill()
        child.join()


@needs_espeak
def test_the_link_to_deep_data_is_removed_by_the_process_that_made_it(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(espeak_engine.atexit, "register", at_exit.append)
    link = Path(espeak_engine._short_path(str(tmp_path / ("d" * 200))))
    assert link.is_symlink()
    with monkeypatch.context() as forked:
        forked.setattr(espeak_engine.os, "getpid", lambda: -1)
        at_exit[0]()
    assert link.is_symlink()
    at_exit[0]()
    assert not link.parent.exists()


@needs_espeak
def test_the_longest_path_that_espeak_takes_is_kept(tmp_path):
    longest = "/" + 149 * "d"
    assert espeak_engine._short_path(longest) == longest
    assert espeak_engine._short_path(longest + "d") != longest + "d"
    assert espeak_engine._short_path("/" + 75 * "ü") != "/" + 75 * "ü"


@needs_espeak
def test_data_that_are_missing_are_named(tmp_path, monkeypatch):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(ImportError, match=f"does not start with the data in '{tmp_path}': reinstall espeakng-loader"):
        espeak_engine.Engine()


@needs_espeak
def test_data_in_a_deep_folder_are_found(tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    short = espeak_engine._short_path(str(deep))
    assert len(short) < 150
    deep.mkdir(parents=True)
    (deep / "phontab").write_text("here")
    with open(f"{short}/phontab") as file:
        assert file.read() == "here"
    assert espeak_engine._short_path("/usr/share/espeak-ng-data") == "/usr/share/espeak-ng-data"


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._engine.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'pip install "speechbrain_mamba\[tts\]"'):
            espeak.phonemes("hello")
    finally:
        espeak._engine.cache_clear()


def test_whether_the_package_is_installed_is_told(monkeypatch):
    for spec, available in ((None, False), (object(), True)):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, spec=spec: spec)
        assert espeak.espeak_available() is available
