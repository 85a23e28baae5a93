"""The audio of manifests is checked before the first step."""

import pytest
import torch

from speechbrain_mamba.dataio import listed_audio
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.listed_audio import check_listed_audio
from speechbrain_mamba.dataio.manifests import write_manifest


def write_rows(path, **seconds):
    """A manifest of files of some seconds, each in the folder of the manifest."""
    for name, duration in seconds.items():
        write_audio(path.parent / f"{name}.wav", torch.zeros(round(duration * 8000)), 8000)
    rows = [{"ID": name, "duration": duration, "wav": f"{name}.wav", "wrd": "A"} for name, duration in seconds.items()]
    write_manifest(path, rows)
    return path


def message(*args, **options):
    with pytest.raises(ValueError) as caught:
        check_listed_audio(*args, **options)
    return str(caught.value)


def test_good_files_pass_whatever_the_rounding_of_their_durations(tmp_path, capsys):
    path = write_rows(tmp_path / "a.csv", short=0.01, long=20)
    path.write_text(path.read_text().replace("0.01", "0.1").replace("20", "20.29"))
    check_listed_audio([path, [path, path]], 8000)
    check_listed_audio([path], None)
    assert capsys.readouterr().err.count("Checking a.csv: 100%") == 2  # each once


@pytest.mark.parametrize(
    ("written", "shown", "hint"),
    [
        ("1500", "1500", "give it in seconds, not in milliseconds."),
        ("12000", "12000", "give it in seconds, not in samples."),
        ("1.62", "1.62", "correct it."),
        ("1.38", "1.38", "correct it."),
        ("3", "3", "correct it."),
    ],
)
def test_a_duration_that_contradicts_the_file_is_named(tmp_path, written, shown, hint):
    path = write_rows(tmp_path / "a.csv", good=1.5, a=1.5)
    path.write_text(path.read_text().replace("a,1.5", f"a,{written}"))
    assert message([path], 8000) == (
        f"The manifest '{path}', line 3: the duration of 'a' is {shown} s, but its audio has 1.5 s: {hint}"
    )


def test_segments_are_not_read(tmp_path):
    path = write_rows(tmp_path / "a.csv", a=1.5)
    path.write_text("ID,duration,wav,wrd,start,stop\na,0.5,a.wav,A,0,4000\n")
    assert message([path], 8000).endswith(
        "has 1.5 s: correct it. Columns 'start' and 'stop' are not read: cut the files."
    )


def test_the_first_ten_of_many_bad_files_are_named_and_all_counted(tmp_path):
    path = write_rows(tmp_path / "a.csv", good=0.1, **{f"u{index:02d}": 0.1 for index in range(14)})
    for index in range(1, 14):
        (tmp_path / f"u{index:02d}.wav").unlink()
    (tmp_path / "u02.wav").symlink_to("gone.wav")
    (tmp_path / "u03.wav").write_text("no audio")
    write_audio(tmp_path / "u04.wav", torch.zeros(1600), 16000)
    lines = message([path], 8000).splitlines()
    assert lines[0] == "13 of 15 rows have audio that cannot be used:"
    assert len(lines) == 12 and lines[-1] == "  ... and 3 more."
    starts = [f"  The manifest '{path}', line {index + 3}: 'u{index:02d}' cannot be used. " for index in range(1, 11)]
    assert all(line.startswith(start) for line, start in zip(lines[1:], starts))
    words = ["u01.wav' does not exist", "is a link to 'gone.wav'", "cannot be read", "a sample rate of 16000 Hz"]
    assert all(word in line for line, word in zip(lines[1:], words))


def test_sources_must_be_as_long_as_their_mixture_and_other_columns_do_not_count(tmp_path):
    names = {"mix": 800, "s1": 800, "s2": 700}
    for name, samples in names.items():
        write_audio(tmp_path / f"{name}.wav", torch.zeros(samples), 8000)
    row = {"ID": "a", "duration": 0.1, **{f"{name}_wav": f"{name}.wav" for name in names}, "noise_wav": "gone.wav"}
    write_manifest(tmp_path / "a.csv", [row])
    columns = ("duration", "mix_wav", "s1_wav")
    assert message([tmp_path / "a.csv"], 8000, columns=columns).endswith(
        "the files of 'a' have unequal lengths, in samples {'mix_wav': 800, 's1_wav': 800, 's2_wav': 700}."
    )
    write_audio(tmp_path / "s2.wav", torch.zeros(800), 8000)
    check_listed_audio([tmp_path / "a.csv"], 8000, columns=columns)


def test_a_manifest_is_checked_again_only_if_something_changed(tmp_path, monkeypatch):
    checked = []
    real = listed_audio.check_audio
    monkeypatch.setattr(listed_audio, "check_audio", lambda path, rate: checked.append(path[-5]) or real(path, rate))
    memory = tmp_path / "new" / "checked.json"
    first, second = write_rows(tmp_path / "1.csv", a=0.1), write_rows(tmp_path / "2.csv", b=0.1)

    def check(*manifests, rate=8000, root=None):
        checked.clear()
        check_listed_audio(manifests, rate, root, memory=memory)
        return checked

    (tmp_path / "b.wav").rename(tmp_path / "c.wav")
    with pytest.raises(ValueError, match=r"b\.wav' does not exist"):
        check(first, second)
    (tmp_path / "c.wav").rename(tmp_path / "b.wav")
    assert check(first, second) == ["b"]
    assert check(first, second) == []
    assert check(first, rate=None) == ["a"]
    assert check(first, root="x") == ["a"]
    first.write_text(first.read_text() + "\n")
    assert check(first, second, root="x") == ["a", "b"]
    memory.write_text("[]")
    assert check(second) == ["b"]


def test_a_manifest_with_a_fault_is_not_checked_further(tmp_path):
    (tmp_path / "a.csv").write_text("ID,duration,wav\n")
    assert "no column 'wrd'" in message([tmp_path / "a.csv"], 8000, memory=tmp_path / "checked.json")
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        check_listed_audio([tmp_path / "b.csv"], 8000, memory=tmp_path / "checked.json")
    assert not (tmp_path / "checked.json").exists()


def test_unusable_files_are_passed_over_if_asked_to_but_missing_ones_are_not(tmp_path):
    path = write_rows(tmp_path / "a.csv", a=0.1, b=0.1, c=0.1)
    (tmp_path / "a.wav").write_bytes(b"")
    assert "a.wav' is empty" in message([path], 8000)
    check_listed_audio([path], 8000, skip_unusable=True, memory=tmp_path / "checked.json")
    assert "a.wav' is empty" in message([path], 8000, memory=tmp_path / "checked.json")
    (tmp_path / "b.wav").unlink()
    assert message([path], 8000, skip_unusable=True).endswith("b.wav' does not exist.")
