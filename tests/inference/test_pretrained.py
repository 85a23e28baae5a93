"""The base of all classes that load trained models: what it loads, refuses, and leaves in folders."""

import logging
import os
import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.interfaces import Pretrained as SpeechBrainPretrained
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.utils.fetching import FetchConfig, LocalStrategy

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.inference import pretrained
from speechbrain_mamba.inference.bundled import find_bundled
from speechbrain_mamba.inference.pretrained import Pretrained, find_kind, load_any, open_model
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.text.tokenizer import train_tokenizer
from speechbrain_mamba.utils.safe_yaml import UnsafeModelError
from speechbrain_mamba.utils.weights import read_weights, write_weights

TEXT = """
size: 3
layer: !new:torch.nn.Linear
    in_features: !ref <size>
    out_features: 2
normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
tokenizer: !new:sentencepiece.SentencePieceProcessor
labels: !new:speechbrain.dataio.encoder.CategoricalEncoder
modules:
    layer: !ref <layer>
    normalize: !ref <normalize>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        layer: !ref <layer>
        normalize: !ref <normalize>
        tokenizer: !ref <tokenizer>
        labels: !ref <labels>
"""
FILES = ["hyperparams.yaml", "layer.safetensors", "normalize.ckpt", "tokenizer.ckpt", "labels.ckpt"]


class Model(Pretrained):
    """A model of a layer."""

    MODULES_NEEDED = ["layer"]  # noqa: RUF012  # as SpeechBrain's classes
    HPARAMS_NEEDED = ["tokenizer"]  # noqa: RUF012

    def __init__(self, *arguments, scale=1, **options):
        super().__init__(*arguments, **options)
        self.scale = scale


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The folder of a model; the working directory is another one that must stay empty."""
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (folder / "hyperparams.yaml").write_text(TEXT)
    write_weights(folder / "layer.safetensors", {"weight": torch.full((2, 3), 7.0), "bias": torch.ones(2)})
    statistics = {"count": 4, "glob_mean": torch.full((3,), 2.0), "glob_std": torch.ones(3)}
    torch.save(statistics, folder / "normalize.ckpt")
    train_tokenizer(folder / "tokenizer.ckpt", ["ABBA"], 6, token_type="char")
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"])
    labels.save(folder / "labels.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    yield folder
    assert not list(elsewhere.iterdir())


def check(loaded):
    assert loaded.mods.layer.weight.eq(7).all() and loaded.mods.normalize.glob_mean.eq(2).all()
    assert loaded.mods.normalize.count == 4 and loaded.hparams.tokenizer.vocab_size() == 6
    assert loaded.hparams.labels.ind2lab == {0: "a", 1: "b"}


def test_a_model_is_loaded_with_all_its_parts(model):
    loaded = Model.from_hparams(model, scale=3)
    check(loaded)
    assert isinstance(loaded, SpeechBrainPretrained) and loaded.scale == 3 and loaded.hparams.size == 3
    assert not loaded.mods.layer.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.source_files.find("labels.ckpt") == model / "labels.ckpt"
    check(Model.from_hparams(source=str(model), run_opts={"device": "cpu"}, freeze_params=False))


def test_the_arguments_are_those_of_speechbrain(model):
    (model / "other.yaml").write_text(TEXT)
    (model / "hyperparams.yaml").unlink()
    loaded = Model.from_hparams(
        str(model),
        "other.yaml",
        overrides="# none",
        overrides_must_match=False,
        savedir=None,
        local_strategy=LocalStrategy.COPY,
        fetch_config=FetchConfig(allow_network=False),
    )
    check(loaded)
    with pytest.raises(ValueError, match="has no 'sise' to override"):
        Model.from_hparams(model, "other.yaml", overrides={"sise": 4})
    with pytest.raises(ValueError, match=r"1 misshapen \(weight is 2 x 3, needs 2 x 4\)"):
        Model.from_hparams(model, "other.yaml", overrides={"size": 4})
    assert Model.from_hparams(model, "other.yaml", download_only=True) is None


def test_the_older_weights_of_a_folder_do(model):
    write_weights(model / "layer.ckpt", read_weights(model / "layer.safetensors"))
    (model / "layer.safetensors").unlink()
    check(Model.from_hparams(model))


def test_half_precision_on_disk_does(model):
    halves = {name: value.half() for name, value in read_weights(model / "layer.safetensors").items()}
    write_weights(model / "layer.safetensors", halves)
    loaded = Model.from_hparams(model)
    check(loaded)
    assert loaded.mods.layer.weight.dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- hostile weights


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["layer.ckpt", "layer.safetensors", "normalize.ckpt", "tokenizer.ckpt", "labels.ckpt"])
@pytest.mark.parametrize("kind", ["torch", "pickle", "text"])
def test_hostile_files_beside_the_yaml_run_nothing(model, tmp_path, name, kind):
    marker = tmp_path / "marker"
    if name == "layer.ckpt":
        (model / "layer.safetensors").unlink()
    payload = {"weight": Payload(f"touch {marker}")}
    if kind == "torch":
        torch.save(payload, model / name)
    elif kind == "pickle":
        (model / name).write_bytes(pickle.dumps(payload))
    else:
        (model / name).write_text(f"__import__('os').system('touch {marker}') => 0\n================\n")
    with pytest.raises(ValueError, match=rf"'{model / name}'") as caught:
        Model.from_hparams(model)
    assert "\n" not in str(caught.value).strip() and not marker.exists()


def test_a_file_that_ships_code_is_not_run(model, tmp_path):
    """SpeechBrain's ``foreign_class`` runs a ``custom.py`` beside the YAML; nothing here does."""
    (model / "custom.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\nclass CustomInterface: pass")
    (model / "hyperparams.yaml").write_text(TEXT + "custom: !new:custom.CustomInterface\n")
    with pytest.raises(UnsafeModelError, match=r"hyperparams\.yaml', line \d+: !new:custom\.CustomInterface"):
        Model.from_hparams(model)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("layer.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1]), "are damaged or not safetensors"),
        ("layer.safetensors", lambda path: save_file({"weight": torch.ones(2, 3)}, path), r"1 missing \(bias\)"),
        (
            "layer.safetensors",
            lambda path: save_file({"weight": torch.full((2, 3), torch.nan), "bias": torch.ones(2)}, path),
            r"not finite: 1 broken \(weight\)",
        ),
        ("normalize.ckpt", lambda path: torch.save({"count": 3}, path), "count, glob_mean, glob_std"),
        (
            "normalize.ckpt",
            lambda path: torch.save({"count": 1, "glob_mean": torch.tensor(torch.nan), "glob_std": 1}, path),
            "glob_mean is not a tensor of finite numbers",
        ),
        ("tokenizer.ckpt", lambda path: path.write_bytes(path.read_bytes()[:40]), "not a SentencePiece model"),
        ("labels.ckpt", lambda path: path.write_text("'a' => x"), "is not a file of labels"),
        ("labels.ckpt", lambda path: path.write_text("[" * 100_000 + " => 1"), "is not a file of labels"),
        ("labels.ckpt", lambda path: path.unlink(), r"has no labels\.ckpt"),
    ],
)
def test_damaged_and_missing_files_are_named(model, name, damage, words):
    damage(model / name)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        Model.from_hparams(model)
    assert str(model) in str(caught.value)


# ---------------------------------------------------------------------------------------------------- what is checked


def test_the_text_that_was_checked_is_built(model, tmp_path):
    """The file is exchanged after it was read."""
    opened = open_model(model)
    (model / "hyperparams.yaml").write_text(f"x: !apply:os.system [touch {tmp_path / 'marker'}]")
    check(opened.load(Model))
    assert not (tmp_path / "marker").exists()


def test_nothing_is_built_before_all_files_are_there(model, monkeypatch):
    (model / "labels.ckpt").unlink()
    monkeypatch.setattr(pretrained, "build_model_yaml", lambda checked: pytest.fail("it was built"))
    with pytest.raises(FileNotFoundError, match=r"labels\.ckpt"):
        Model.from_hparams(model)


def test_trust_runs_what_the_file_says_with_a_warning(model, tmp_path):
    marker = tmp_path / "marker"
    (model / "part.yaml").write_text("a: 1\n")
    extra = f"ran: !apply:os.system [touch {marker}]\nincluded: !include:part.yaml\n"
    (model / "hyperparams.yaml").write_text(TEXT + extra)
    with pytest.raises(UnsafeModelError, match=r"line \d+: !apply:os\.system .*trust_yaml=True"):
        Model.from_hparams(model)
    assert not marker.exists()
    with pytest.warns(UserWarning, match=r"hyperparams\.yaml' is trusted: it can run any program"):
        loaded = Model.from_hparams(model, trust_yaml=True)
    check(loaded)
    assert marker.exists() and loaded.hparams.included == {"a": 1}


def test_trust_takes_hooks_paths_and_conditions_but_no_pickles(model, tmp_path):
    shutil.copytree(model, tmp_path / "other")
    text = TEXT + f"    paths: {{labels: {tmp_path}/other/labels.ckpt}}\n    conditions: {{normalize: false}}\n"
    text += "    custom_hooks:\n        tokenizer: !name:speechbrain.utils.checkpoints.mark_as_loader\n"
    (model / "hyperparams.yaml").write_text(text)
    (model / "labels.ckpt").unlink()
    with pytest.warns(UserWarning, match="is trusted"), pytest.raises(TypeError, match="mark_as_loader"):
        Model.from_hparams(model, trust_yaml=True)
    (model / "hyperparams.yaml").write_text(text.split("    custom_hooks")[0])
    with pytest.warns(UserWarning, match="is trusted"):
        loaded = Model.from_hparams(model, trust_yaml=True)
    assert loaded.hparams.labels.ind2lab == {0: "a", 1: "b"} and loaded.mods.normalize.count == 0
    torch.save({"weight": Payload("true")}, model / "layer.ckpt")
    (model / "layer.safetensors").unlink()
    with pytest.warns(UserWarning, match="is trusted"), pytest.raises(ValueError, match="which could run code"):
        Model.from_hparams(model, trust_yaml=True)


def test_a_model_does_not_choose_the_device(model, caplog):
    (model / "hyperparams.yaml").write_text(TEXT + "device: cuda:7\njit: true\n")
    with caplog.at_level(logging.WARNING, logger="speechbrain_mamba"):
        loaded = Model.from_hparams(model, run_opts={"device": "cpu"})
    assert loaded.device == "cpu" and not loaded.jit
    assert "sets device, which is ignored" in caplog.text and "sets jit" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT.split("pretrainer:")[0], "has no pretrainer"),
        (TEXT.replace("labels: !ref <labels>", "labels: 3"), "'labels', which is not an object"),
        (TEXT.replace("labels: !ref <labels>", "labels: !name:torch.nn.GELU"), "'labels', which is not an object"),
        (TEXT.replace("tokenizer", "speller"), r"holds another kind of model .*, but Model needs tokenizer"),
        (
            TEXT.replace("    normalize: !ref <normalize>\npre", "    normalize: 3\npre"),
            "'normalize' of the modules is a int",
        ),
        (
            TEXT.replace("        layer: !ref <layer>\n        norm", "        norm"),
            r"no file has the weights of layer\.weight, layer\.bias, which would be random",
        ),
        ("a: 1\n", r"holds another kind of model \(modules: none\), but Model needs layer, tokenizer"),
    ],
)
def test_files_without_what_a_model_needs_are_named(model, text, words):
    (model / "hyperparams.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        Model.from_hparams(model)


# ---------------------------------------------------------------------------------------------------- folders and links


def test_links_out_of_the_folder_are_refused(model, tmp_path):
    secret = tmp_path / "secret"
    shutil.move(model / "labels.ckpt", secret)
    (model / "labels.ckpt").symlink_to(secret)
    with pytest.raises(ValueError, match=r"labels\.ckpt' is a link out of its folder, to '.*secret'"):
        Model.from_hparams(model)
    (model / "labels.ckpt").unlink()
    shutil.move(secret, model / "here")
    (model / "labels.ckpt").symlink_to(model / "here")
    check(Model.from_hparams(model))
    shutil.copy(model / "hyperparams.yaml", tmp_path / "out.yaml")
    (model / "hyperparams.yaml").unlink()
    (model / "hyperparams.yaml").symlink_to(tmp_path / "out.yaml")
    with pytest.raises(ValueError, match="link out of its folder"):
        Model.from_hparams(model)


def test_links_into_the_cache_of_the_hub_are_usual(model, tmp_path):
    blob = tmp_path / "hub" / "models--someone--model" / "blobs" / "0123"
    blob.parent.mkdir(parents=True)
    shutil.move(model / "labels.ckpt", blob)
    (model / "labels.ckpt").symlink_to(blob)
    check(Model.from_hparams(model))


@pytest.mark.parametrize("strategy", [LocalStrategy.SYMLINK, LocalStrategy.COPY, LocalStrategy.NO_LINK])
def test_a_folder_for_the_files_gets_links_or_copies(model, tmp_path, strategy):
    savedir = tmp_path / "kept" / "files"
    for _ in range(2):
        loaded = Model.from_hparams(model, savedir=savedir, local_strategy=strategy)
        check(loaded)
    kept = {path.name: path.is_symlink() for path in savedir.iterdir()} if savedir.exists() else {}
    expected = {} if strategy == LocalStrategy.NO_LINK else dict.fromkeys(FILES, strategy == LocalStrategy.SYMLINK)
    assert kept == expected and loaded.hparams.savedir == savedir


def test_what_lies_in_the_folder_for_the_files_is_not_loaded(model, tmp_path):
    savedir = tmp_path / "kept"
    savedir.mkdir()
    (savedir / "hyperparams.yaml").write_text(f"x: !apply:os.system [touch {tmp_path / 'marker'}]")
    with pytest.raises(ValueError, match=r"savedir '.*kept' has another hyperparams\.yaml than"):
        Model.from_hparams(model, savedir=savedir)
    assert not (tmp_path / "marker").exists()
    check(Model.from_hparams(model, savedir=savedir, fetch_config=FetchConfig(overwrite=True)))
    (savedir / "labels.ckpt").unlink()
    (savedir / "labels.ckpt").symlink_to(savedir / "hyperparams.yaml")  # of another model
    check(Model.from_hparams(model, savedir=savedir))
    assert (savedir / "labels.ckpt").resolve() == (model / "labels.ckpt").resolve()


def test_the_folder_of_the_model_can_be_the_folder_for_the_files(model):
    check(Model.from_hparams(model, savedir=model))
    assert not any(path.is_symlink() for path in model.iterdir())


# ---------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """A Hub with the model as someone/model in two versions, and what was asked of it."""
    asked = []

    def download(repo_id, filename, revision=None, token=None, local_dir=None, **options):
        asked.append((repo_id, filename, revision, token))
        snapshot = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}" / "snapshots" / "abc123"
        if not (model / filename).is_file() or not repo_id.startswith("someone/"):
            raise OSError("404")
        if local_dir is not None:
            return shutil.copy(model / filename, Path(local_dir) / filename)
        snapshot.mkdir(parents=True, exist_ok=True)
        return shutil.copy(model / filename, snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_all_files_of_the_hub_are_of_one_version(hub):
    check(Model.from_hparams("someone/model", revision="v1", token="secret"))
    assert hub[0] == ("someone/model", "hyperparams.yaml", "v1", "secret")
    asked = {(revision, token) for _, name, revision, token in hub if name != "hyperparams.yaml"}
    assert asked == {("abc123", "secret")}
    assert {name for _, name, _, _ in hub} == {*FILES, "normalize.safetensors"}


@pytest.mark.parametrize("strategy", [LocalStrategy.SYMLINK, LocalStrategy.COPY, LocalStrategy.COPY_SKIP_CACHE])
def test_files_of_the_hub_are_kept_where_the_caller_says(hub, tmp_path, strategy):
    for _ in range(2):
        check(Model.from_hparams("someone/model", savedir=tmp_path / "kept", local_strategy=strategy))
    links = {path.name: path.is_symlink() for path in (tmp_path / "kept").iterdir()}
    assert links == dict.fromkeys(FILES, strategy == LocalStrategy.SYMLINK)


def test_a_model_that_is_not_there_is_named(hub):
    with pytest.raises(FileNotFoundError, match=r"'no/one' is not a folder, and the Hub gave no hyperparams\.yaml"):
        Model.from_hparams("no/one")
    with pytest.raises(FileNotFoundError, match="'seperator'"):
        Model.from_hparams("seperator")
    assert "seperator" not in {repo for repo, *_ in hub}  # a name without a slash is not asked of the Hub


PATHS = "    paths: {layer: 'SOURCE/weights.safetensors', labels: 'SOURCE/labels.txt'}\n"


@pytest.mark.parametrize("source", ["someone/model", "someone/other", "."])
def test_paths_lead_to_the_files_of_the_model_itself(model, hub, source):
    """SpeechBrain's models name the Hub as the place of their files, also in a folder with a copy of all of them."""
    (model / "hyperparams.yaml").write_text(TEXT + PATHS.replace("SOURCE", source))
    (model / "layer.safetensors").rename(model / "weights.safetensors")
    (model / "labels.ckpt").rename(model / "labels.txt")
    check(Model.from_hparams(model))
    assert not hub
    check(Model.from_hparams("someone/model"))
    assert {repo for repo, *_ in hub} == {"someone/model"}


def test_another_model_is_asked_only_if_the_caller_agrees(model, hub, tmp_path, monkeypatch):
    text = TEXT + "    paths: {labels: someone/labels/names.txt}\n"
    (model / "hyperparams.yaml").write_text(text)
    (model / "labels.ckpt").unlink()
    with pytest.raises(UnsafeModelError, match=r"from another model, 'someone/labels'.*sources=\['someone/labels'\]"):
        Model.from_hparams(model)
    assert not hub
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"])
    labels.save(tmp_path / "names.txt")

    def download(repo_id, filename, **options):
        hub.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for sources in (["someone/labels"], "someone/labels"):
        check(Model.from_hparams(model, sources=sources))
    assert set(hub) == {"someone/labels"}


# ---------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("keys", "modules", "kind"),
    [
        (["num_spks"], ["encoder", "masknet", "decoder"], "separator"),
        (["sampler"], ["ar", "nar"], "synthesizer"),
        (["tokenizer", "decoding_function"], ["encoder"], "recognizer"),
        (["tokenizer"], ["encoder", "decoder"], "recognizer"),
        ([], ["whisper", "decoder"], "recognizer"),
        (["label_encoder"], ["compute_features", "embedding_model"], "speaker encoder"),
        (["a"], ["b"], None),
    ],
)
def test_the_kind_of_a_model_is_found(keys, modules, kind):
    assert find_kind(keys, modules) == kind


def test_another_kind_of_model_is_named(model):
    with pytest.raises(
        ValueError, match=r"holds a recognizer \(modules: layer, normalize\), but SpeechSeparator needs"
    ):
        SpeechSeparator.from_hparams(model)
    with pytest.raises(ValueError, match=r"Load it with speechbrain_mamba\.inference\.recognition\.Recognizer"):
        SpeechSeparator.from_hparams(model)
    with pytest.raises(
        ValueError, match="holds a recognizer, but a separator or a synthesizer is needed: load it with"
    ):
        load_any(model, {"separator": SpeechSeparator, "synthesizer": Model})
    check(load_any(model, {"separator": SpeechSeparator, "recognizer": Model}, run_opts={"device": "cpu"}, scale=2))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", r"hyperparams\.yaml' lacks sample_rate, without which a separator cannot be used"),
        ("sample_rate: fast", r"hyperparams\.yaml': sample_rate is 'fast', but must be a number of Hz from 1000 to"),
        ("sample_rate: 0", "sample_rate is 0, but must be"),
    ],
)
def test_a_rate_that_is_missing_or_none_is_named(tmp_path, line, words):
    """It was an AttributeError or a ValueError from within the model, when it was used."""
    shutil.copytree(find_bundled("separator"), tmp_path / "model")
    path = tmp_path / "model" / "hyperparams.yaml"
    path.write_text(re.sub(r"^sample_rate:.*$", line, path.read_text(), flags=re.MULTILINE))
    with pytest.raises(ValueError, match=words):
        SpeechSeparator.from_hparams(tmp_path / "model")


def test_a_folder_that_is_no_model_is_named(model, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(model, run / "inference")
    with pytest.raises(FileNotFoundError, match=rf"has no hyperparams\.yaml\. Did you mean '{run / 'inference'}'\?"):
        Model.from_hparams(run)
    (run / "hyperparams.yaml").write_text("seed: !apply:speechbrain.utils.seed_everything [1]\n")
    with pytest.raises(
        UnsafeModelError, match=rf"the output folder of a training\. Did you mean '{run / 'inference'}'"
    ):
        Model.from_hparams(run)
    with pytest.raises(FileNotFoundError, match=rf"Did you mean '{model}' or '{run}'\?"):
        Model.from_hparams(tmp_path)
    save_codec(EnCodec(8000, (4, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2), tmp_path / "codec")
    with pytest.raises(
        FileNotFoundError, match=r"It holds a codec: load it with speechbrain_mamba\.codecs\.load_codec"
    ):
        Model.from_hparams(tmp_path / "codec")


def test_loading_leaves_the_random_numbers_of_the_caller(model):
    state = torch.get_rng_state()
    check(Model.from_hparams(model))
    assert torch.get_rng_state().equal(state)


# ---------------------------------------------------------------------------------------------------- run options


@pytest.mark.parametrize(("options", "dtype"), [({}, torch.float32), ({"precision": "bf16"}, torch.bfloat16)])
def test_the_precision_is_that_of_the_inference(model, monkeypatch, options, dtype):
    monkeypatch.setattr("speechbrain_mamba.inference.precision.bf16_unavailable", lambda: None)
    for chosen in (options, {"eval_precision": options["precision"]} if options else options):
        loaded = Model.from_hparams(model, run_opts={"device": "cpu", **chosen})
        with torch.no_grad(), loaded.inference_ctx:
            assert loaded.mods.layer(torch.ones(1, 3)).dtype == dtype
    with pytest.raises(ValueError, match="precision is 'fp8', but must be one of fp32, bf16, int8, fp16"):
        Model.from_hparams(model, run_opts={"precision": "fp8"})
    with pytest.raises(ValueError, match="precision is 'fp16', which needs a GPU: on a CPU take bf16, int8 or fp32"):
        Model.from_hparams(model, run_opts={"precision": "fp16"})  # oneDNN can hang there


def test_arguments_of_other_types_are_refused(model):
    for options in ("cpu", {"devise": "cpu"}):
        with pytest.raises(ValueError, match=r"run_opts are .*, but must be a mapping with some of .*device"):
            Model.from_hparams(model, run_opts=options)
    with pytest.raises(TypeError, match="source is of type NoneType, but must be a folder"):
        Model.from_hparams(None)


def test_a_device_may_be_an_object(model):
    assert Model.from_hparams(model, run_opts={"device": torch.device("cpu")}).device == "cpu"
    assert next(Model.from_hparams(model, run_opts={"device": "meta"}).parameters()).device.type == "meta"


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named(model, device):
    with pytest.raises(ValueError, match=f"The device '{device}' is not there") as caught:
        Model.from_hparams(model, run_opts={"device": device})
    assert "\n" not in str(caught.value)


def test_speechbrains_own_classes_are_loaded_safely_too(model):
    opened = open_model(model)
    assert opened.kind == "recognizer" and opened.modules == ["layer", "normalize"]
    loaded = opened.load(SpeechBrainPretrained)
    assert type(loaded) is SpeechBrainPretrained and loaded.mods.layer.weight.eq(7).all()
    with pytest.raises(ValueError, match="SepformerSeparation needs encoder, masknet, decoder"):
        opened.load(SepformerSeparation)
