"""The speaker encoder of SIM-o: published names of weights, sizes by their shapes, and what it computes."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from speechbrain_mamba.inference import sim_o
from speechbrain_mamba.inference.judges import load_judges
from speechbrain_mamba.inference.sim_o import SimOEncoder, load_sim_o

# names of wavlm_large_finetune.pth, as public programs that load it list them
PUBLISHED = [
    "feature_extract.model.mask_emb",
    "feature_extract.model.layer_norm.weight",
    "feature_extract.model.post_extract_proj.bias",
    "feature_extract.model.feature_extractor.conv_layers.6.0.weight",
    "feature_extract.model.feature_extractor.conv_layers.0.2.1.weight",
    "feature_extract.model.encoder.pos_conv.0.weight_g",
    "feature_extract.model.encoder.pos_conv.0.weight_v",
    "feature_extract.model.encoder.pos_conv.0.bias",
    "feature_extract.model.encoder.layer_norm.bias",
    "feature_extract.model.encoder.layers.0.self_attn.relative_attention_bias.weight",
    "feature_extract.model.encoder.layers.1.self_attn.grep_linear.weight",
    "feature_extract.model.encoder.layers.1.self_attn.grep_a",
    "feature_extract.model.encoder.layers.1.self_attn.q_proj.weight",
    "feature_extract.model.encoder.layers.1.self_attn.out_proj.bias",
    "feature_extract.model.encoder.layers.1.self_attn_layer_norm.weight",
    "feature_extract.model.encoder.layers.1.final_layer_norm.weight",
    "feature_extract.model.encoder.layers.1.fc1.weight",
    "feature_extract.model.encoder.layers.1.fc2.bias",
    "feature_weight",
    "layer1.conv.weight",
    "layer1.bn.running_var",
    "layer2.Conv1dReluBn1.conv.weight",
    "layer3.Res2Conv1dReluBn.convs.6.weight",
    "layer3.Res2Conv1dReluBn.bns.6.weight",
    "layer4.Conv1dReluBn2.bn.bias",
    "layer4.SE_Connect.linear2.weight",
    "conv.bias",
    "pooling.linear1.weight",
    "pooling.linear2.bias",
    "bn.running_mean",
    "linear.weight",
]
TO_PUBLISHED = [
    (r"^wavlm\.feature_extractor\.conv_layers\.(\d+)\.conv\.", r"wavlm.feature_extractor.conv_layers.\1.0."),
    (r"^wavlm\.feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"wavlm.feature_extractor.conv_layers.\1.2.1."),
    (r"^wavlm\.feature_projection\.layer_norm\.", "wavlm.layer_norm."),
    (r"^wavlm\.feature_projection\.projection\.", "wavlm.post_extract_proj."),
    (r"^wavlm\.masked_spec_embed", "wavlm.mask_emb"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
    (r"pos_conv_embed\.conv\.", "pos_conv.0."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.attention\.gru_rel_pos_linear", ".self_attn.grep_linear"),
    (r"\.attention\.gru_rel_pos_const", ".self_attn.grep_a"),
    (r"\.attention\.rel_attn_embed", ".self_attn.relative_attention_bias"),
    (r"\.attention\.", ".self_attn."),
    (r"feed_forward\.intermediate_dense", "fc1"),
    (r"feed_forward\.output_dense", "fc2"),
    (r"^wavlm\.", "feature_extract.model."),
    (r"^(layer\d)\.first\.", r"\1.Conv1dReluBn1."),
    (r"^(layer\d)\.res2\.", r"\1.Res2Conv1dReluBn."),
    (r"^(layer\d)\.last\.", r"\1.Conv1dReluBn2."),
    (r"^(layer\d)\.excitation\.", r"\1.SE_Connect."),
]


@pytest.fixture
def published(tmp_path):
    """A tiny encoder with random weights, and the file of its weights as the large one is published."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "num_buckets": 320, "max_bucket_distance": 800, "conv_dim": (8,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
        "conv_stride": (5, 2, 2, 2, 2, 2, 2), "num_feat_extract_layers": 7, "feat_extract_norm": "layer",
        "do_stable_layer_norm": True, "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    encoder = SimOEncoder(transformers.WavLMModel(transformers.WavLMConfig(**sizes)), 16, 4, 24, 6, 10).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    weights = {"loss_calculator.projection.weight": torch.zeros(3, 10)}
    for name, value in encoder.state_dict().items():
        for pattern, new in TO_PUBLISHED:
            name = re.sub(pattern, new, name)
        weights[name] = value
    path = tmp_path / "wavlm_large_finetune.pth"
    torch.save({"model": weights}, path)
    return encoder, path, weights


def test_weights_have_their_published_names(published):
    _, _, weights = published
    assert set(PUBLISHED) <= set(weights)


def test_voices_are_embedded_as_published(published, monkeypatch):
    encoder, path, _ = published
    wav = torch.randn(16000)
    with torch.no_grad():
        normalized = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-5).sqrt()
        states = encoder.wavlm(normalized[None], output_hidden_states=True).hidden_states
        assert len(states) == 3  # what the layers get, and what the last one gives
        weights = encoder.feature_weight.softmax(0)
        x = sum(weight * state for weight, state in zip(weights, states)).transpose(1, 2) + 1e-6
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = encoder.layer1(x)
        outputs = []
        for layer in (encoder.layer2, encoder.layer3, encoder.layer4):
            x = layer(x)
            outputs.append(x)
        x = F.relu(encoder.conv(torch.cat(outputs, 1)))
        weights = torch.softmax(encoder.pooling.linear2(torch.tanh(encoder.pooling.linear1(x))), -1)
        mean = (weights * x).sum(-1)
        spread = ((weights * (x - mean[..., None]) ** 2).sum(-1)).sqrt()
        expected = encoder.linear(encoder.bn(torch.cat([mean, spread], 1)))[0]
    for source in (f"sim-o:{path}", f"sim-o:{path.parent}"):
        embed = load_judges(None, source)["embed"]
        assert torch.allclose(embed(wav, 16000), expected / expected.norm(), atol=1e-4)
    assert embed(wav[:800], 16000).norm() == pytest.approx(1, abs=1e-5)  # the shortest speech that is judged
    asked = []
    monkeypatch.setattr(sim_o, "fetch_pretrained", lambda *args: asked.append(args) or path)
    load_sim_o("sim-o")
    assert asked == [("bezzam/wavlm_large_finetune_seed_tts_eval", "wavlm_large_finetune.pth")]


def test_the_parts_of_a_residual_block_pass_on_what_they_made(published):
    res2 = published[0].layer3.res2
    x = torch.randn(1, 16, 9)
    with torch.no_grad():
        parts, made = x.split(2, 1), []
        for index in range(7):
            given = parts[index] if index == 0 else made[-1] + parts[index]
            made.append(res2.bns[index](F.relu(res2.convs[index](given))))
        assert torch.allclose(res2(x), torch.cat([*made, parts[7]], 1))
    assert [conv.dilation for conv in res2.convs] == [(3,)] * 7


def test_other_weights_are_refused(published, tmp_path):
    _, path, weights = published
    torch.save({"model": {name: value for name, value in weights.items() if name != "bn.bias"}}, path)
    with pytest.raises(ValueError, match=r"does not have the weights of SIM-o, .*: RuntimeError: .*SimOEncoder"):
        load_sim_o(f"sim-o:{path}")
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match="does not have the weights of SIM-o"):
        load_sim_o(f"sim-o:{path}")
    with pytest.raises(FileNotFoundError):
        load_sim_o(f"sim-o:{tmp_path / 'none'}/")
