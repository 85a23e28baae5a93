"""Codecs: padding, saving and loading, training, and errors in words."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

encodec = pytest.importorskip("encodec", reason="the package encodec is not installed")

from encodec.modules import SEANetDecoder, SEANetEncoder  # noqa: E402
from encodec.quantization import ResidualVectorQuantizer  # noqa: E402

from speechbrain_mamba.codecs import EnCodec, load_codec, pretrained_encodec, save_codec  # noqa: E402

SIZES = {
    "sample_rate": 8000,
    "ratios": (5, 4, 2),
    "n_codebooks": 3,
    "codebook_size": 16,
    "dimension": 8,
    "n_filters": 4,
}


@pytest.fixture
def codec() -> EnCodec:
    """A small codec whose codebooks have been filled."""
    torch.manual_seed(0)
    codec = EnCodec(**SIZES)
    codec(torch.randn(4, 4000))
    return codec.eval()


def package_model(bandwidths: list[float], **options) -> encodec.EncodecModel:
    """A model of the package in the sizes of :func:`codec`, 800 bit/s per codebook, codebooks filled."""
    sizes = {"dimension": 8, "n_filters": 4, "ratios": [5, 4, 2], "causal": True}
    parts = SEANetEncoder(**sizes), SEANetDecoder(**sizes), ResidualVectorQuantizer(8, 3, 16)
    model = encodec.EncodecModel(*parts, bandwidths, 8000, **{"channels": 1, **options})
    parts[2].vq(parts[0](torch.randn(4, 1, 4000)))
    return model.eval()


def test_padding_changes_neither_tokens_nor_sound(codec):
    torch.manual_seed(1)
    lengths = torch.tensor([4000, 1001, 90, 1])
    wavs = torch.randn(4, 4000)
    for i, length in enumerate(lengths):
        wavs[i, length:] = torch.nan
    codes, code_lengths = codec.encode(wavs, lengths)
    sound, sound_lengths = codec.decode(codes, code_lengths)
    assert code_lengths.tolist() == [100, 26, 3, 1]
    assert sound_lengths.tolist() == [4000, 1040, 120, 40]
    for i, length in enumerate(lengths):
        alone, _ = codec.encode(wavs[i : i + 1, :length])
        assert torch.equal(codes[i, : code_lengths[i]], alone[0])
        assert (codes[i, code_lengths[i] :] == 0).all()
        expected, _ = codec.decode(alone)
        torch.testing.assert_close(sound[i, : sound_lengths[i]], expected[0], rtol=1e-4, atol=1e-5)
        assert (sound[i, sound_lengths[i] :] == 0).all()


@pytest.mark.parametrize("ratios", [(5, 4, 2), (2, 2)])
def test_short_utterances_are_the_same_in_a_batch(ratios):
    codec = EnCodec(**{**SIZES, "ratios": ratios})
    codec(torch.randn(4, 800))
    codec.eval()
    hop = math.prod(ratios)
    lengths = torch.tensor([hop * frames - frames % 3 for frames in range(10)])
    wavs = torch.randn(10, 9 * hop)
    codes, code_lengths = codec.encode(wavs, lengths)
    assert code_lengths.tolist() == list(range(10))
    sound, sound_lengths = codec.decode(codes.where(codes > 0, 3), code_lengths)  # padding that could be heard
    assert (codes[0] == 0).all()
    assert (sound[0] == 0).all()
    for example in range(1, 10):
        alone, _ = codec.encode(wavs[example : example + 1, : lengths[example]])
        assert torch.equal(codes[example, :example], alone[0])
        assert (codes[example, example:] == 0).all()
        expected, _ = codec.decode(alone.where(alone > 0, 3))
        torch.testing.assert_close(sound[example, : sound_lengths[example]], expected[0], rtol=1e-4, atol=1e-5)


def test_sound_is_padded_to_whole_frames_with_silence(codec):
    wavs = torch.randn(2, 81)
    codes, lengths = codec.encode(wavs)
    assert codes.shape == (2, 3, 3)
    assert lengths.tolist() == [3, 3]
    assert torch.equal(codes, codec.encode(nn.functional.pad(wavs, (0, 39)))[0])
    sound, sound_lengths = codec.decode(codes)
    assert sound.shape == (2, 120)
    assert sound_lengths.tolist() == [120, 120]
    assert codec.count_frames(torch.tensor([0, 1, 40, 41])).tolist() == [0, 1, 1, 2]


def test_everything_is_made_where_the_inputs_are(codec):
    """A tensor made on the default device would not go with the others."""
    wavs = torch.randn(2, 90)
    with torch.device("meta"):
        sound, _ = codec.decode(codec.encode(wavs)[0])
    assert sound.shape == (2, 120)
    assert sound.isfinite().all()


@pytest.mark.parametrize("n_codebooks", [1, 2, 3])
def test_tokens_and_sound_are_those_of_the_package(n_codebooks):
    """Whose bandwidth stands for the number of codebooks, each of 4 bits 200 times a second."""
    bandwidth = 0.8 * n_codebooks + 0.1
    model = package_model([bandwidth])
    model.set_target_bandwidth(bandwidth)
    codec = EnCodec.from_encodec(model, n_codebooks)
    wavs = torch.randn(2, 1200)
    frames = model.encode(wavs[:, None])
    codes, _ = codec.encode(wavs)
    assert torch.equal(codes, frames[0][0].transpose(1, 2))
    assert codes.shape == (2, 30, n_codebooks)
    sound, _ = codec.decode(codes)
    torch.testing.assert_close(sound, model.decode(frames)[:, 0], rtol=1e-4, atol=1e-5)
    assert not sound.requires_grad


def test_a_wrapped_model_has_all_its_codebooks_and_settings_by_default(tmp_path):
    model = package_model([2.4]).train()
    codec = EnCodec.from_encodec(model)
    assert (codec.n_codebooks, codec.codebook_size, codec.sample_rate) == (3, 16, 8000)
    assert (codec.hop_length, codec.frame_rate) == (40, 200)
    assert not any(module.training for module in codec.modules())
    wavs = torch.randn(1, 800)
    save_codec(codec, tmp_path)
    assert torch.equal(load_codec(tmp_path).encode(wavs)[0], model.eval().encode(wavs[:, None])[0][0].transpose(1, 2))


@pytest.mark.parametrize("change", [{"channels": 2}, {"normalize": True}, {"segment": 1.0}])
def test_models_of_another_kind_are_not_wrapped(change):
    model = package_model([2.4])
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match="take EnCodec's for 24 kHz"):
        EnCodec.from_encodec(model)


@pytest.mark.parametrize("n_codebooks", [0, -1, 4])
def test_codebooks_that_a_model_lacks_are_named(n_codebooks, codec, tmp_path):
    with pytest.raises(ValueError, match=rf"n_codebooks is {n_codebooks}, but .* has 1 to 3"):
        EnCodec.from_encodec(package_model([2.4]), n_codebooks)
    save_codec(codec, tmp_path)
    with pytest.raises(ValueError, match=rf"n_codebooks is {n_codebooks}, but .* has 1 to 3"):
        load_codec(tmp_path, n_codebooks)


def test_a_codec_is_by_default_of_the_published_sizes():
    codec, model = EnCodec(), encodec.EncodecModel._get_model([6.0])
    assert (codec.sample_rate, codec.frame_rate, codec.hop_length) == (24000, 75, 320)
    assert (codec.n_codebooks, codec.codebook_size) == (8, 1024)
    state = model.state_dict()
    assert {name: value.shape for name, value in codec.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    codec.load_state_dict(state)
    wavs, encoded = torch.randn(1, 1, 2400), torch.randn(1, 128, 8)
    with torch.no_grad():
        torch.testing.assert_close(codec.encoder(wavs), model.encoder(wavs))
        torch.testing.assert_close(codec.decoder(encoded), model.decoder(encoded))


OTHER = {"sample_rate": 11025, "ratios": [4, 3], "n_codebooks": 2, "codebook_size": 32, "dimension": 6,
         "n_filters": 2, "lstm": 1}  # fmt: skip


def test_a_loaded_codec_has_every_setting_and_weight(tmp_path):
    codec = EnCodec(**OTHER)
    codec(torch.randn(4, 2000))
    save_codec(codec, tmp_path / "new" / "codec")
    loaded = load_codec(str(tmp_path / "new" / "codec"))
    assert json.loads((tmp_path / "new" / "codec" / "codec.json").read_text()) == OTHER
    for name in ("sample_rate", "n_codebooks", "codebook_size", "hop_length", "frame_rate"):
        assert getattr(loaded, name) == getattr(codec, name)
    assert loaded.state_dict().keys() == codec.state_dict().keys()
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert codec.training
    assert not any(module.training for module in loaded.modules())


def test_a_codec_saved_on_a_gpu_is_loaded_without_one(codec, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    save_codec(codec, tmp_path)
    monkeypatch.undo()
    assert {value.device.type for value in load_codec(tmp_path).state_dict().values()} == {"cpu"}


def test_a_codec_saved_over_another_one_replaces_it(codec, tmp_path):
    save_codec(EnCodec(**OTHER), tmp_path)
    save_codec(codec, tmp_path)
    loaded = load_codec(tmp_path)
    wavs = torch.randn(2, 800)
    assert loaded.hop_length == 40
    assert torch.equal(loaded.encode(wavs)[0], codec.encode(wavs)[0])


def test_a_saved_codec_is_the_same_when_loaded(codec, tmp_path):
    save_codec(codec, tmp_path)
    wavs = torch.randn(2, 800)
    loaded = load_codec(tmp_path)
    assert torch.equal(loaded.encode(wavs)[0], codec.encode(wavs)[0])
    assert torch.equal(load_codec(tmp_path, 2).encode(wavs)[0], codec.encode(wavs)[0][..., :2])
    assert loaded.frame_rate == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.json", "codec.safetensors"]


def test_a_codec_with_codebooks_that_are_not_in_use_is_saved_whole(codec, tmp_path):
    save_codec(codec, tmp_path / "whole")
    save_codec(load_codec(tmp_path / "whole", 2), tmp_path / "part")
    wavs = torch.randn(2, 800)
    assert torch.equal(load_codec(tmp_path / "part", 2).encode(wavs)[0], codec.encode(wavs)[0][..., :2])
    assert load_codec(tmp_path / "part").n_codebooks == 3


def test_published_weights_are_wrapped_with_any_number_of_codebooks(tmp_path):
    model = encodec.EncodecModel._get_model([1.5, 24.0])
    codec = EnCodec.from_encodec(model, 8)
    assert (codec.frame_rate, codec.n_codebooks, codec.codebook_size) == (75, 8, 1024)
    model.set_target_bandwidth(1.5)
    wavs = torch.randn(1, 4800)
    assert torch.equal(codec.encode(wavs)[0][..., :2], model.encode(wavs[:, None])[0][0].transpose(1, 2))
    with pytest.raises(ValueError, match="has 1 to 32"):
        EnCodec.from_encodec(model, 33)
    with pytest.raises(ValueError, match="take EnCodec's for 24 kHz"):
        EnCodec.from_encodec(encodec.EncodecModel.encodec_model_48khz(pretrained=False))


@pytest.mark.parametrize(("n_codebooks", "used"), [(None, 8), (3, 3), (32, 32)])
@pytest.mark.parametrize("in_folder", [False, True])
def test_the_published_codec_has_the_codebooks_asked_for(monkeypatch, tmp_path, n_codebooks, used, in_folder):
    """Whose weights come from the package, or from a folder that has the file."""
    places = []

    def published(pretrained=True, repository=None):
        places.append(repository)
        return tiny_published()

    monkeypatch.setattr(encodec.EncodecModel, "encodec_model_24khz", published)
    if in_folder:
        (tmp_path / "encodec_24khz-d7cc33bc.th").touch()
    codec = load_codec(str(tmp_path) if in_folder else "encodec_24khz", n_codebooks)
    assert codec.n_codebooks == used
    assert places == [tmp_path if in_folder else None]
    assert codec.encode(torch.randn(1, 400))[0].shape == (1, 10, used)


def tiny_published() -> encodec.EncodecModel:
    """A model with as many codebooks as the published one."""
    sizes = {"dimension": 8, "n_filters": 2, "ratios": [5, 4, 2], "causal": True, "lstm": 0}
    parts = SEANetEncoder(**sizes), SEANetDecoder(**sizes), ResidualVectorQuantizer(8, 32, 16)
    return encodec.EncodecModel(*parts, [24.0], 24000, 1)


def test_the_published_codec_has_at_least_one_codebook_and_8_by_default(monkeypatch, tmp_path):
    monkeypatch.setattr(encodec.EncodecModel, "encodec_model_24khz", lambda repository: tiny_published())
    assert pretrained_encodec().n_codebooks == 8
    assert pretrained_encodec(None).n_codebooks == 32
    (tmp_path / "encodec_24khz-d7cc33bc.th").touch()
    for source in ("encodec_24khz", tmp_path):
        with pytest.raises(ValueError, match="n_codebooks is 0, but"):
            load_codec(source, 0)


def test_the_commitment_is_the_distance_of_what_is_quantized_from_its_entries(codec):
    """The mean over the codebooks in use of the squared distance of what the ones before left."""
    wavs, lengths = torch.randn(3, 1000), torch.tensor([1000, 300, 700])
    codec.n_codebooks = 2
    before = EnCodec(**SIZES)
    before.load_state_dict(codec.state_dict())
    reconstruction, commitment, codes = codec.train()(wavs, lengths)

    masked = wavs.masked_fill(torch.arange(1000) >= lengths[:, None], 0)
    left = before.encoder(masked[:, None]).transpose(1, 2)
    encoded, distances, nearest = left, [], []
    for layer in before.quantizer.vq.layers[:2]:
        nearest.append(torch.cdist(left, layer.codebook).argmin(-1))
        distances.append((left - layer.codebook[nearest[-1]]).square().mean())
        left = left - layer.codebook[nearest[-1]]
    assert torch.equal(codes, torch.stack(nearest, 2))
    torch.testing.assert_close(commitment, sum(distances) / 2)
    expected = before.decoder((encoded - left).transpose(1, 2))[:, 0]
    torch.testing.assert_close(reconstruction, expected, rtol=1e-4, atol=1e-5)


def test_out_of_training_the_reconstruction_is_what_the_tokens_say(codec):
    wavs = torch.randn(2, 410)
    wavs[1, 400:] = torch.nan
    lengths = torch.tensor([410, 400])
    reconstruction, _, codes = codec(wavs, lengths)
    assert reconstruction.shape == (2, 440)
    expected, _ = codec.encode(wavs, lengths)
    assert torch.equal(codes[0], expected[0])
    assert torch.equal(codes[1, :10], expected[1, :10])
    torch.testing.assert_close(reconstruction[0], codec.decode(expected)[0][0], rtol=1e-4, atol=1e-5)


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    codec = EnCodec(**SIZES)
    wavs = torch.randn(4, 1000)
    for _ in range(2):
        reconstruction, commitment, codes = codec(wavs, torch.tensor([1000, 900, 500, 1000]))
    assert reconstruction.shape == (4, 1000)
    assert codes.shape == (4, 25, 3)
    ((reconstruction - wavs).square().mean() + commitment).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.zeros(1, 5, 4, dtype=torch.long), "another codec"),
        (torch.zeros(1, 5, 0, dtype=torch.long), "another codec"),
        (torch.zeros(5, 3, dtype=torch.long), "another codec"),
        (torch.full((1, 5, 3), 16), "run from 16 to 16, but the codec has those from 0 to 15"),
        (torch.tensor([[[0, -1, 15]]]), "run from -1 to 15, but the codec has those from 0 to 15"),
        (torch.zeros(1, 0, 3, dtype=torch.long), "another codec"),
    ],
)
def test_tokens_of_another_codec_are_named(codec, codes, words):
    with pytest.raises(ValueError, match=words):
        codec.decode(codes)


def test_what_cannot_be_loaded_is_named(tmp_path, codec):
    with pytest.raises(FileNotFoundError, match=r"has no codec\.json"):
        load_codec(tmp_path)
    save_codec(codec, tmp_path)
    with pytest.raises(ValueError, match="has 1 to 3"):
        load_codec(tmp_path, 4)
    for shape in [(1, 0), (1, 1, 400), (400,)]:
        with pytest.raises(ValueError, match=r"takes \(batch, samples\)"):
            codec.encode(torch.zeros(shape))


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(FileNotFoundError, match=r"at the address that .*no network.*train a codec with"):
        load_codec("encodec_24khz")


def test_a_folder_with_damaged_weights_is_named(tmp_path):
    (tmp_path / "encodec_24khz-d7cc33bc.th").write_bytes(b"half a downl")
    with pytest.raises(FileNotFoundError, match=f"are not available in '{tmp_path}'"):
        load_codec(tmp_path)


def test_a_new_codec_does_not_swallow_the_sound():
    torch.manual_seed(0)
    codec = EnCodec(8000, (5, 4, 4, 2), n_codebooks=4, codebook_size=256, dimension=64, n_filters=8, lstm=1)
    wavs = 0.1 * torch.randn(2, 8000)
    encoded = codec.encoder(wavs[:, None])
    assert encoded.std(2).mean() > 0.02
    assert codec.decoder(encoded).std() > 0.02
    weights = [m.weight for m in codec.modules() if isinstance(m, nn.Conv1d)]
    for weight in weights:  # the variance that keeps that of the input
        torch.testing.assert_close(weight.var() * weight[0].numel(), torch.tensor(1.0), rtol=0.2, atol=0)
    assert len(weights) == 2 * (2 + 3 * 4 + 4) - 4
