"""Speech and phonemes from espeak-ng."""

import multiprocessing
import sys

import pytest
import torch

from speechbrain_mamba.dataio import espeak

needs_espeak = pytest.mark.skipif(not espeak.espeak_available(), reason="espeakng-loader is not installed")


@needs_espeak
def test_speech_has_a_plausible_length_and_level():
    signal, sample_rate = espeak.synthesize("the old clock stopped at noon", rate=150)
    assert sample_rate == 22050
    assert signal.dtype == torch.float32
    assert 1.0 < len(signal) / sample_rate < 4.0
    assert 0.05 < float(signal.abs().max()) < 1.0


@needs_espeak
def test_parameters_are_heard():
    def seconds(**settings):
        return len(espeak.synthesize("seven three zero nine", variant="m1", **settings)[0]) / 22050

    assert seconds(rate=120) > 1.3 * seconds(rate=200)

    def loudness(volume):
        return float(espeak.synthesize("seven three zero", volume=volume)[0].square().mean().sqrt())

    assert loudness(60) > 1.5 * loudness(30)


@needs_espeak
def test_phonemes_of_several_clauses():
    assert espeak.phonemes("seven, three. zero!") == "sˈɛvən θɹˈiː zˈiəɹoʊ"
    assert espeak.phonemes("bath", "en-us") != espeak.phonemes("bath", "en-gb-x-rp")
    assert espeak.phonemes("") == ""


@needs_espeak
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"voice": "nowhere"}, "no voice 'nowhere'"),
        ({"variant": "nobody"}, "no voice variant 'nobody': choose one of"),
        ({"pitch": 100}, "pitch is 100, but must lie in 0 to 99"),
        ({"pitch_range": -1}, "pitch_range is -1"),
        ({"rate": 20}, "rate is 20"),
        ({"volume": 300}, "volume is 300"),
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


@needs_espeak
def test_data_in_a_deep_folder_are_found(tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    short = espeak._short_path(str(deep))
    assert len(short) < 150
    deep.mkdir(parents=True)
    (deep / "phontab").write_text("here")
    with open(f"{short}/phontab") as file:
        assert file.read() == "here"
    assert espeak._short_path("/usr/share/espeak-ng-data") == "/usr/share/espeak-ng-data"


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._engine.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'pip install "speechbrain_mamba\[tts\]"'):
            espeak.phonemes("hello")
    finally:
        espeak._engine.cache_clear()
