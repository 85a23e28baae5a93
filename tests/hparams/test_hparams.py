"""Every hyper-parameter file loads, and its models work; and files build on one another as they say."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams, select_hparams
from tests.conftest import HPARAMS

FILES = [path for path in sorted(HPARAMS.rglob("*.yaml")) if path.parent.name != "base"]
RECOGNITION = [path for path in FILES if path.parent.name == "asr"]
SEPARATION = [path for path in FILES if path.parent.name == "separation"]


@pytest.mark.parametrize("path", SEPARATION, ids=lambda path: path.stem)
def test_separation_models_are_built(path, tmp_path):
    hparams = load_hparams(path, {"data_folder": "unused", "output_folder": str(tmp_path)})
    modules = hparams["modules"]
    if sum(p.numel() for module in modules.values() for p in module.parameters()) < 3e6:
        with torch.no_grad():
            estimate = separate(modules["encoder"], modules["masknet"], modules["decoder"], torch.randn(1, 2000))
        assert estimate.shape == (1, 2000, hparams["num_spks"])
    assert hparams["experiment_name"] == path.stem


@pytest.mark.parametrize("name", ["mambatasnet_XS", "mini_sepformer"])
def test_a_kernel_size_alone_gives_whole_estimates(name):
    """With weights that make each frame worth as much as the others: no sample of the estimate is zero."""
    sizes = {"kernel_size": 32, "N_encoder_out": 8, "out_channels": 8, "data_folder": "unused"}
    hparams = load_hparams(HPARAMS / "separation" / f"{name}.yaml", sizes)
    encoder, decoder = hparams["Encoder"], hparams["Decoder"]
    assert encoder.conv1d.stride == decoder.stride == (16,)
    with torch.no_grad():
        encoder.conv1d.weight.fill_(1.0)
        decoder.weight.fill_(1.0)
        estimate = separate(encoder, lambda mix_w, lengths: torch.ones_like(mix_w)[None], decoder, torch.ones(1, 1600))
    assert (estimate > 0).all()


@pytest.mark.parametrize("path", RECOGNITION, ids=lambda path: path.stem)
def test_recognition_models_are_built(path, tmp_path):
    small = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1}
    small |= {} if "ctc" in path.stem else {"num_decoder_layers": 1}
    hparams = load_hparams(path, {"data_folder": "unused", "output_folder": str(tmp_path), **small})
    assert hparams["experiment_name"] == path.stem
    with torch.no_grad():
        src = hparams["CNN"](hparams["compute_features"](torch.randn(1, hparams["sample_rate"])))
        if "ctc" in path.stem:
            chunks = hparams["chunk_config"] if hparams["streaming"] else None
            encoder_out = hparams["Encoder"](src, dynchunktrain_config=chunks)
        else:
            encoder_out, decoder_out = hparams["Transformer"](src, torch.tensor([[1, 5, 6]]))
            assert hparams["seq_lin"](decoder_out).shape == (1, 3, hparams["output_neurons"])
        assert hparams["ctc_lin"](encoder_out).shape == (1, 26, hparams["output_neurons"])


def test_every_base_is_built_upon():
    bases = {path.name for path in HPARAMS.rglob("base/*.yaml")}
    first_lines = [path.read_text().splitlines()[0] for path in HPARAMS.rglob("*.yaml")]
    included = [line.removeprefix("!include:").split("+") for line in first_lines if line.startswith("!include:")]
    assert bases <= {name.split("/")[-1] for names in included for name in names}


def test_later_files_replace_what_earlier_ones_say(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\ny: 1\nz: 1")
    (tmp_path / "b.yaml").write_text("y: 2\nz: 2")
    (tmp_path / "c.yaml").write_text("!include:a.yaml+b.yaml\nz: 3")
    assert load_hparams(tmp_path / "c.yaml") == {"x": 1, "y": 2, "z": 3}


@pytest.fixture
def write(tmp_path):
    """Write ``name.yaml`` files, and answer the last one's path."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return path

    return write


def test_files_include_what_others_include(write, tmp_path, monkeypatch):
    path = write(
        root="a: 1\nb: 1\nc: 1\nd: 1\ne: !ref <d> * 10",
        base__one="!include:../root.yaml\nb: 2\nc: 2",
        base__two="!include:../root.yaml\nc: 3\nd: 3\nf: grün",
        top="!include:base/one.yaml+base/two.yaml\nd: 4",
    )
    expected = {"a": 1, "b": 1, "c": 3, "d": 4, "e": 40, "f": "grün"}  # two.yaml has root's b
    assert load_hparams(path) == expected
    swapped = write(swapped="!include:base/two.yaml+base/one.yaml\nx: 0")
    assert load_hparams(swapped) == {**expected, "b": 2, "c": 2, "d": 1, "e": 10, "x": 0}
    monkeypatch.chdir(tmp_path / "base")
    assert load_hparams("../top.yaml") == load_hparams(str(path)) == expected


def test_redefining_a_key_replaces_its_old_value_entirely(write):
    write(base="net: {size: 3, depth: 2}\nlist: [1, 2]\nrest: 5")
    changed = load_hparams(write(top="!include:base.yaml\nnet: {size: 4}\nlist: [9]"))
    assert changed == {"net": {"size": 4}, "list": [9], "rest": 5}
    same = load_hparams(write(top="!include:base.yaml\n{}"))
    assert same == {"net": {"size": 3, "depth": 2}, "list": [1, 2], "rest": 5}


@pytest.mark.parametrize("text", ["!include:base.yaml", "!include:base.yaml\n", "!include:base.yaml\n\n# nothing\n"])
def test_a_file_may_include_and_change_nothing(write, text):
    assert load_hparams(write(base="a: 1", top=text)) == {"a": 1}
    assert load_hparams(write(more="b: 2", top=f"{text.splitlines()[0]}+more.yaml")) == {"a": 1, "b": 2}


def test_objects_and_references_come_along(write):
    linear = "linear: !new:torch.nn.Linear\n  in_features: !ref <size>\n  out_features: 2"
    write(base=f"size: 3\n{linear}\nagain: !ref <linear>")
    hparams = load_hparams(write(top="!include:base.yaml\nsize: 7"), {"linear": {"bias": False}})
    assert hparams["linear"].weight.shape == (2, 7)
    assert hparams["linear"].bias is None
    assert hparams["again"] is hparams["linear"]


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (None, {}),
        ("", {}),
        ({}, {}),
        ("x: 5", {"x": 5}),
        ({"x": 5, "y": 6}, {"x": 5, "y": 6}),
        ("net: {size: 4}", {"net": {"size": 4, "depth": {"low": 1, "high": 2}}}),  # the rest stays
        ({"net": {"depth": {"high": 3}}}, {"net": {"size": 3, "depth": {"low": 1, "high": 3}}}),
        ("x: [1, 2]\ny: null", {"x": [1, 2], "y": None}),
    ],
)
def test_overrides_go_over_all_files(write, overrides, changes):
    write(base="x: 1\ny: 1\nnet: {size: 3, depth: {low: 1, high: 2}}")
    path = write(top="!include:base.yaml\nx: 2\nz: !ref <y>")
    expected = {"x": 2, "y": 1, "net": {"size": 3, "depth": {"low": 1, "high": 2}}, **changes}
    assert load_hparams(path, overrides) == {**expected, "z": expected["y"]}


def test_an_override_of_no_key_is_named_with_one_like_it(write):
    path = write(base="learning_rate: 1\nsize: 1", top="!include:base.yaml\nx: 1")
    with pytest.raises(ValueError, match=r"top\.yaml has no hyper-parameter 'learning_rates' .* 'learning_rate'\?"):
        read_hparams(path, "size: 2\nlearning_rates: 2")
    with pytest.raises(ValueError, match=r"has no hyper-parameter 'qqq' to override\.$"):
        read_hparams(path, {"qqq": 2})


def test_what_is_read_holds_no_include_and_loads_alone(write):
    text = read_hparams(write(base="a: !ref <b>\nb: 1", top="!include:base.yaml\nb: 2"), "b: 3")
    assert "!include" not in text and "<b>" in text
    assert load_hyperpyyaml(text) == {"a": 3, "b": 3}


TEXT = """\
unused: 1
size: 3
sizes:
  small: !ref <size>
  large: 20
depth: 4
list:
  - !ref <depth>
  - !ref <sizes[large]>
linear: !new:torch.nn.Linear
  in_features: !ref <sizes[small]>
  out_features: !ref <depth> * <size> + 1
folder: !ref <unknown>/<size>
other: !ref <linear>
modules:
  one: !ref <linear>
"""


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        (["depth"], ["depth"]),
        (["depth", "size"], ["size", "depth"]),
        (["list"], ["size", "sizes", "depth", "list"]),
        (["modules", "depth"], ["size", "sizes", "depth", "linear", "modules"]),
        (["folder"], ["size", "folder"]),
        ([], []),
    ],
)
def test_a_selection_holds_all_that_it_refers_to_in_its_order(keys, kept):
    text = select_hparams(TEXT, keys)
    assert [line.split(":")[0] for line in text.splitlines() if line[0] not in " -{"] == kept
    assert all(line in TEXT or line == "{}" for line in text.splitlines())


def test_a_selection_loads_like_the_whole():
    linear = load_hyperpyyaml(select_hparams(TEXT, ["modules"]))["modules"]["one"]
    assert (linear.in_features, linear.out_features) == (3, 13)
    with pytest.raises(KeyError, match="missing"):
        select_hparams(TEXT, ["missing"])


def test_overrides_reach_what_refers_to_them():
    hparams = load_hparams(HPARAMS / "separation" / "mambatasnet_XS.yaml", "data_folder: x\nn_mamba: 1\nlr: 0.5")
    assert len(hparams["MaskNet"].mamba_net.layers) == 1
    assert hparams["lr_scheduler"].lr_initial == 0.5


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no hyper-parameter file"):
        read_hparams(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("!include:b.yaml\nx: 1")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml that .*a\.yaml includes"):
        read_hparams(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("!include:a.yaml\nx: 1")
    with pytest.raises(ValueError, match=r"includes itself: a\.yaml -> b\.yaml -> a\.yaml"):
        read_hparams(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="is not a mapping"):
        read_hparams(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match="'data_folder' is a !PLACEHOLDER"):
        load_hparams(HPARAMS / "separation" / "mambatasnet_M.yaml")


@pytest.mark.parametrize(
    ("name", "ar", "nar"),
    [
        ("valle", 152.7, 160.4),
        ("vallm", 158.2, 169.3),
        ("vallm_hybrid", 170.8, 181.9),
        ("mini_vallm", 0.8, 0.9),
        ("mini_vallm_hybrid", 0.8, 0.9),
        ("mini_valle", 0.8, 0.9),
    ],
)
def test_codec_language_models_have_as_many_parameters_as_their_files_say(name, ar, nar):
    path = HPARAMS / "tts" / f"{name}.yaml"
    with torch.device("meta"):  # the large ones would take seconds to initialize
        hparams = load_hyperpyyaml(select_hparams(read_hparams(path, {"token_folder": "unused"}), ["ar", "nar"]))
    for part, millions in {"ar": ar, "nar": nar}.items():
        assert round(sum(p.numel() for p in hparams[part].parameters()) / 1e6, 1) == millions
        assert f"{millions} M" in path.read_text()


@pytest.mark.parametrize("name", ["mini_conmamba_ctc_fsdd", "conformer_small"])
def test_hop_length_is_that_of_the_features(name):
    frames = {}
    for hop in (5, 10, 20):
        text = read_hparams(HPARAMS / "asr" / f"{name}.yaml", {"hop_length": hop, "sample_rate": 8000})
        frames[hop] = load_hyperpyyaml(select_hparams(text, ["compute_features"]))["compute_features"](
            torch.randn(1, 8000)
        ).shape[1]
    assert frames == {5: 201, 10: 101, 20: 51}
