"""Outputs of a frozen encoder that are kept: what is computed again, and what is not."""

from __future__ import annotations

import torch

from speechbrain_mamba.dataio.kept_encodings import KeptEncodings, fingerprint


def encoder(seen):
    """Encodes four samples as a frame, and remembers what it was given."""

    def encode(wavs):
        seen.append([len(wav) for wav in wavs])
        return [wav.unfold(0, 4, 4) / 3 for wav in wavs]

    return encode


def test_each_recording_is_encoded_once_whoever_asks(tmp_path):
    wavs, seen = [torch.randn(16), torch.randn(24), torch.randn(8)], []
    first = KeptEncodings(tmp_path, "a").get(wavs, encoder(seen))
    again = KeptEncodings(tmp_path, "a").get([wavs[2], wavs[0]], encoder(seen))
    assert seen == [[16, 24, 8]]
    assert torch.equal(again[0], first[2]) and torch.equal(again[1], first[0])
    assert [memory.dtype for memory in first] == 3 * [torch.float]
    for memory, wav in zip(first, wavs):  # rounded the first time too, as a resumed run reads it
        assert torch.equal(memory, (wav.unfold(0, 4, 4) / 3).half().float())


def test_other_samples_and_other_encoders_are_other_outputs(tmp_path):
    wav, seen = torch.randn(16), []
    KeptEncodings(tmp_path, "a").get([wav], encoder(seen))
    changed = wav.clone()
    changed[3] += 1e-3
    KeptEncodings(tmp_path, "a").get([wav, changed], encoder(seen))
    KeptEncodings(tmp_path, "b").get([wav], encoder(seen))
    assert seen == [[16], [16], [16]]


def test_a_damaged_file_is_made_again(tmp_path):
    wav, seen = torch.randn(16), []
    kept = KeptEncodings(tmp_path, "a")
    first = kept.get([wav], encoder(seen))[0]
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(kept.get([wav], encoder(seen))[0], first) and len(seen) == 2
    assert torch.equal(kept.get([wav], encoder(seen))[0], first) and len(seen) == 2


def test_a_fingerprint_tells_weights_apart():
    weights = {"a": torch.randn(2, 3), "b": torch.zeros(()), "c": torch.zeros(0)}
    changed = [
        {**weights, "a": weights["a"] + 1e-6},
        {**weights, "a": weights["a"].view(3, 2)},
        {**weights, "a": weights["a"].double()},
        {**weights, "d": torch.zeros(0)},
    ]
    assert fingerprint(dict(reversed(weights.items()))) == fingerprint(weights)
    assert len({fingerprint(one) for one in [weights, *changed]}) == 5
