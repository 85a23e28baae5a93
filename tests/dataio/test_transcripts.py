"""Manifests of transcribed speech, what of them is left out, datasets of it."""

import json
import logging

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.transcripts import (
    encoder_frames,
    find_manifests,
    piece_dataset,
    read_transcripts,
    recognition_dataset,
    select_usable,
    write_transcripts,
)
from speechbrain_mamba.text.tokenizer import FILE_NAME, train_tokenizer

ROW = {"ID": "a", "duration": 0.5, "wav": "$data_root/a.wav", "wrd": "ABBA", "spk_id": "x"}


@pytest.fixture
def tokenizer(tmp_path):
    return train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], vocab_size=6, token_type="char")


def test_csv_and_json_manifests_are_the_same(tmp_path):
    write_transcripts(tmp_path / "a.csv", [ROW])
    (tmp_path / "a.json").write_text(json.dumps({"a": {key: value for key, value in ROW.items() if key != "ID"}}))
    expected = {"a": {"duration": 0.5, "wav": "/data/a.wav", "wrd": "ABBA", "spk_id": "x"}}
    assert read_transcripts(tmp_path / "a.csv", "/data") == read_transcripts(tmp_path / "a.json", "/data") == expected


def test_a_manifest_keeps_its_order_and_all_columns(tmp_path):
    rows = [
        {**ROW, "ID": name, "duration": 0.5 + index, "wrd": f'SAY "{name}", ÜBER'} for index, name in enumerate("bca")
    ]
    write_transcripts(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0] == "ID,duration,wav,wrd,spk_id"
    items = read_transcripts(tmp_path / "a.csv", "/data")
    assert list(items) == ["b", "c", "a"]
    for row in rows:
        kept = {key: value for key, value in row.items() if key != "ID"}
        assert items[row["ID"]] == kept | {"wav": "/data/a.wav"}


def test_a_manifest_of_ones_own_may_have_spaces_and_more_columns(tmp_path):
    (tmp_path / "a.csv").write_text("ID, duration, wav, wrd, language\na, 2, {data_root}/x/a.wav, GOOD  DAY, en\n")
    expected = {"duration": 2.0, "wav": "here/x/a.wav", "wrd": "GOOD  DAY", "language": "en"}
    assert read_transcripts(tmp_path / "a.csv", "here") == {"a": expected}
    (tmp_path / "a.json").write_text(json.dumps({"ü": {**expected, "duration": "2", "wav": "b.wav"}}))
    assert read_transcripts(tmp_path / "a.json") == {"ü": {**expected, "wav": "b.wav"}}
    assert type(read_transcripts(tmp_path / "a.json")["ü"]["duration"]) is float


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "a", "must be a .csv or .json file"),
        ("a.csv", "ID,duration,wav,wrd\n", "lists no utterance"),
        ("a.csv", "id,duration,wav,wrd\na,1,a.wav,A\n", "has no column 'ID'"),
        ("a.csv", "ID,duration,wav\na,1,a.wav\n", "has no 'wrd' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,a.wav,A\na,1,a.wav,A\n", "has the id 'a' twice"),
        ("a.csv", "ID,duration,wav,wrd\na,long,a.wav,A\n", "has the duration 'long' for 'a'"),
        ("a.csv", "ID,duration,wav,wrd\na,1,$data_root/a.wav,A\n", "have $data_root: set data_root"),
        ("a.csv", "ID,duration,wav,wrd\na,1,{data_root}/a.wav,A\n", "have {data_root}: set data_root"),
        ("a.csv", "ID,wrd,duration,wav\na,A,1,a.wav\nb,A,1\n", "has no 'wav' for 'b'"),
        ("a.json", '{"a": {"wav": "a.wav", "wrd": "A"}}', "has no 'duration' for 'a': it needs duration, wav, wrd"),
        ("a.json", '{"a": {"duration": [1], "wav": "a.wav", "wrd": "A"}}', "has the duration .* for 'a'"),
        ("a.json", '{"a": 1}', "must map each id"),
        ("a.json", "{}", "lists no utterance"),
        ("a.json", "{", "is no valid JSON"),
        ("a.json", "[1]", "must map each id"),
    ],
)
def test_manifest_errors(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        read_transcripts(tmp_path / name)


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: prepare the data first"):
        read_transcripts(tmp_path / "a.csv")


def test_unusable_utterances_are_named(tokenizer, caplog):
    items = {
        "good": {"duration": 1.0, "wrd": "AB"},
        "empty": {"duration": 1.0, "wrd": " "},
        "strange": {"duration": 1.0, "wrd": "AÉ"},
        "short": {"duration": 0.1, "wrd": "AAA"},
        "silent": {"duration": 0.0, "wrd": "AB"},
    }

    def frames(item):
        return encoder_frames(item["duration"], 16000, 160)

    with caplog.at_level(logging.WARNING):
        assert list(select_usable(items, tokenizer, "utterances", frames)) == ["good"]
    text = caplog.text
    assert "Left out 1 of 5 utterances with an empty transcript: empty." in text
    assert "with characters that the tokenizer does not know: strange." in text
    assert "with fewer frames than their transcript needs for CTC: short." in text
    assert "with no audio: silent." in text
    assert list(select_usable(items, tokenizer, "utterances")) == ["good", "strange", "short"]
    with pytest.raises(ValueError, match="None of the 1 utterances can be used: 1 with an empty transcript"):
        select_usable({"empty": items["empty"]}, tokenizer, "utterances")


@pytest.mark.parametrize(("text", "needed"), [("AB", 3), ("AAB", 5), ("AAA", 6), ("A AB", 5)])
def test_training_needs_a_frame_per_token_and_one_between_equal_ones(tokenizer, text, needed):
    """A text begins with a space of its own."""
    items = {"a": {"duration": 1.0, "wrd": text}, "long": {"duration": 2.0, "wrd": text}}
    for frames, usable in ((needed, ["a", "long"]), (needed - 1, ["long"])):
        kept = select_usable(items, tokenizer, "utterances", lambda item: round(item["duration"] * frames))  # noqa: B023
        assert list(kept) == usable
        assert all(kept[name] is items[name] for name in usable)


@pytest.mark.parametrize(("count", "ending"), [(10, "u8, u9."), (11, "u8, u9 and 1 more."), (14, "u8, u9 and 4 more.")])
def test_no_more_than_ten_are_named(tokenizer, caplog, count, ending):
    items = {f"u{i}": {"duration": 0.0, "wrd": "AB"} for i in range(count)}
    select_usable({"good": {"duration": 0.1, "wrd": "AB"}, **items}, tokenizer, "readings")
    names = ", ".join(f"u{i}" for i in range(8))
    assert caplog.messages == [f"Left out {count} of {count + 1} readings with no audio: {names}, {ending}"]


def test_nothing_is_said_when_all_can_be_used(tokenizer, caplog):
    items = {"a": {"duration": 0.1, "wrd": "AB"}}
    assert select_usable(items, tokenizer, "utterances") == items
    assert not caplog.messages


@pytest.mark.parametrize("seconds", [0.03, 0.1, 1.0, 1.23, 20.0])
def test_encoder_frames_are_those_of_the_front_end(seconds):
    from speechbrain.lobes.features import Fbank

    from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd

    frontend = ConvolutionFrontEnd((8, 10, 80), 2, 1, (4, 4), (3, 3), (2, 2), residuals=(False, False))
    feats = Fbank(n_mels=80)(torch.randn(1, round(seconds * 16000)))
    assert frontend(feats).shape[1] == encoder_frames(seconds, 16000, 160)


@pytest.mark.parametrize("strides", [(), (2,), (3, 2), (2, 2, 2)])
@pytest.mark.parametrize("samples", [1, 79, 80, 12345, 16080])
def test_encoder_frames_are_those_of_an_stft_and_strided_convolutions(samples, strides):
    window = torch.hann_window(160)
    stft = torch.stft(torch.zeros(samples), 160, 80, window=window, pad_mode="constant", return_complex=True)
    frames = stft.shape[1]
    for stride in strides:
        frames = torch.nn.functional.conv1d(torch.zeros(1, 1, frames), torch.zeros(1, 1, 3), None, stride, 1).shape[2]
    assert encoder_frames(samples / 8000, 8000, 80, strides) == frames


def test_dataset(tokenizer, tmp_path):
    write_audio(tmp_path / "a.wav", torch.arange(800) / 1000, sample_rate=8000)
    item = {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}
    dataset = recognition_dataset({"a": item}, tokenizer, 8000, speed_perturb=lambda signal: signal[:, ::2])
    example = dataset[0]
    assert set(example) == {"id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"}
    assert example["sig"].shape == (400,) and example["wrd"] == "AB" and example["id"] == "a"
    assert tokenizer.decode(example["tokens"].tolist()) == "AB"
    assert example["tokens_bos"].tolist() == [1, *example["tokens"].tolist()]
    assert example["tokens_eos"].tolist() == [*example["tokens"].tolist(), 2]
    whole = recognition_dataset({"a": item}, tokenizer, 8000, bos_index=4, eos_index=5)[0]
    assert torch.equal(whole["sig"][::2], example["sig"]) and len(whole["sig"]) == 800
    assert whole["tokens"].tolist() == example["tokens"].tolist()
    assert whole["tokens_bos"].tolist() == [4, *whole["tokens"].tolist()]
    assert whole["tokens_eos"].tolist() == [*whole["tokens"].tolist(), 5]


def test_datasets_take_no_file_of_another_rate(tokenizer, tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(800), sample_rate=8000)
    items = {"a": {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}}
    for dataset in (recognition_dataset(items, tokenizer, 16000), piece_dataset(items, 16000)):
        with pytest.raises(ValueError, match="a sample rate of 8000 Hz, but 16000 Hz are wanted"):
            dataset[0]


@pytest.fixture
def sounds(tmp_path):
    """Two sounds whose samples count up, at 1000 Hz."""
    items = {}
    for name, length, speaker in (("short", 50, "anna"), ("long", 60, "ben")):
        write_audio(tmp_path / f"{name}.wav", torch.arange(length, dtype=torch.int16), 1000)
        items[name] = {"wav": tmp_path / f"{name}.wav", "spk_id": speaker, "wrd": "hello"}
    return items


def test_whole_sounds_are_as_they_are(sounds):
    for dataset in (piece_dataset(sounds, 1000), piece_dataset(sounds, 1000, seconds=0.06)):
        examples = list(dataset)
        assert [set(example) for example in examples] == [{"id", "sig"}] * 2
        assert [example["id"] for example in examples] == ["short", "long"]
        for example, length in zip(examples, (50, 60)):
            assert torch.equal(example["sig"] * 32768, torch.arange(length).float())


def test_pieces_are_of_one_length_from_any_place(sounds):
    dataset = piece_dataset(sounds, 1000, seconds=0.0554, keys=["spk_id", "wrd"])
    assert dataset[0]["spk_id"] == "anna" and dataset[1]["wrd"] == "hello"
    assert len(dataset[0]["sig"]) == 50
    pieces = [dataset[1]["sig"] * 32768 for _ in range(80)]
    assert all(torch.equal(piece, piece[0] + torch.arange(55.0)) for piece in pieces)
    assert {int(piece[0]) for piece in pieces} == {0, 1, 2, 3, 4, 5}


def test_a_csv_manifest_comes_before_a_json_one(tmp_path):
    for name in ("train.csv", "train.json", "valid.json", "test.csv", "test-clean.json"):
        (tmp_path / name).write_text("")
    found = find_manifests(tmp_path)
    assert found == {"train": tmp_path / "train.csv", "valid": tmp_path / "valid.json", "test": tmp_path / "test.csv"}
    assert find_manifests(str(tmp_path), ["test-clean"]) == {"test-clean": tmp_path / "test-clean.json"}
    (tmp_path / "test.csv").rename(tmp_path / "test.txt")
    with pytest.raises(FileNotFoundError, match=r"has no test\.csv and no test\.json"):
        find_manifests(tmp_path)
