"""Files of models on a Hub that speaks its real interface, on this machine."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from speechbrain.utils.fetching import FetchConfig, LocalStrategy

from speechbrain_mamba.utils.hub_errors import explain_failure, is_absence
from speechbrain_mamba.utils.pretrained import ModelFiles, fetch_pretrained
from tests.hub_server import TOKEN

FILES = {"hyperparams.yaml": b"sample_rate: 8000\n", "encoder.ckpt": bytes(range(256)) * 400}


@pytest.fixture
def hub(local_hub, monkeypatch):
    """The Hub with a model me/model."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of a transfer
    local_hub.add("me/model", FILES)
    return local_hub


def test_files_are_transferred_once(hub):
    for _ in range(2):
        for name, content in FILES.items():
            assert ModelFiles("me/model").find(name).read_bytes() == content
    assert fetch_pretrained("me/model", "encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    assert len(hub.transfers()) == 2


def test_all_files_are_of_the_revision_that_the_first_one_has(hub):
    repository = hub.repositories["me/model"]
    repository.names["v1"] = repository.names["main"]
    files = ModelFiles("me/model")
    files.find("hyperparams.yaml")
    repository.commit({**FILES, "encoder.ckpt": b"newer"})  # between two files of one model
    assert files.find("encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    old, new = (FetchConfig(revision=name, allow_updates=True) for name in ("v1", "main"))
    assert ModelFiles("me/model", fetch_config=old).find("encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    assert ModelFiles("me/model", fetch_config=new).find("encoder.ckpt").read_bytes() == b"newer"
    with pytest.raises(FileNotFoundError, match=r"'me/model'.*it has no revision 'v9'"):
        ModelFiles("me/model", fetch_config=FetchConfig(revision="v9", allow_updates=True)).find("encoder.ckpt")


def test_missing_files_and_models_are_named(hub):
    files = ModelFiles("me/model")
    assert files.has("encoder.ckpt") and not files.has("encoder.safetensors")
    assert files.find("encoder.safetensors", "encoder.ckpt").name == "encoder.ckpt"
    with pytest.raises(FileNotFoundError, match=r"gave no lm\.ckpt of a model with this id: it has no such file"):
        files.find("lm.ckpt")
    with pytest.raises(FileNotFoundError, match=r"'me/modle'.*there is none, or it is private.*'hf auth login'"):
        ModelFiles("me/modle").find("lm.ckpt")


def test_a_broken_transfer_goes_on_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks["encoder.ckpt"] = 2
    assert ModelFiles("me/model").find("encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    assert len(hub.transfers()) == 3 and hub.sent < 1.5 * len(FILES["encoder.ckpt"])


def test_a_transfer_that_always_breaks_is_an_error_and_no_other_file_is_taken(hub):
    hub.add("me/model", {**FILES, "encoder.safetensors": FILES["encoder.ckpt"]})
    hub.breaks["encoder.safetensors"] = -1
    with pytest.raises(ConnectionError, match=r"encoder\.safetensors of the model 'me/model' did not come"):
        ModelFiles("me/model").find("encoder.safetensors", "encoder.ckpt")
    assert not list((hub_cache() / "snapshots").rglob("encoder.*"))
    hub.breaks.clear()
    assert ModelFiles("me/model").find("encoder.safetensors").read_bytes() == FILES["encoder.ckpt"]


def hub_cache():
    return Path(constants.HF_HUB_CACHE) / "models--me--model"


def test_offline_the_cache_serves(hub, monkeypatch):
    ModelFiles("me/model").find("hyperparams.yaml")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for config in (None, FetchConfig(allow_network=False)):
        files = ModelFiles("me/model", fetch_config=config)
        assert files.find("hyperparams.yaml").read_bytes() == FILES["hyperparams.yaml"]
        with pytest.raises(FileNotFoundError, match=r"not in the cache, and the network is not used \(HF_HUB_OFFLINE"):
            files.find("encoder.ckpt")
    assert len(hub.asked) == asked


def test_a_hub_that_is_not_there_is_named(hub, monkeypatch):
    ModelFiles("me/model").find("hyperparams.yaml")
    address = "http://127.0.0.1:1"  # nothing listens there
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    files = ModelFiles("me/model")
    assert files.find("hyperparams.yaml").read_bytes() == FILES["hyperparams.yaml"]
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    for find in (ModelFiles("me/other").find, lambda name: fetch_pretrained("me/other", name)):
        with pytest.raises(FileNotFoundError, match=rf"not in the cache, and {address} could not be reached"):
            find("encoder.ckpt")
    assert sum(pauses) <= 2  # a user waits


def test_a_hub_that_does_not_answer_once_is_asked_again(hub, monkeypatch):
    asked, session = [], huggingface_hub.get_session()

    class Failing:
        def head(self, address, timeout):
            asked.append(address)
            return session.head(address if len(asked) > 1 else "http://127.0.0.1:1", timeout=timeout)

    monkeypatch.setattr(huggingface_hub, "get_session", Failing)
    assert ModelFiles("me/model").find("encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    assert asked == [hub.url] * 2
    ModelFiles("me/model").find("hyperparams.yaml")
    assert len(asked) == 2  # it has answered


def test_a_file_that_savedir_has_needs_no_hub(hub, monkeypatch, tmp_path):
    options = {"savedir": tmp_path, "local_strategy": LocalStrategy.COPY_SKIP_CACHE}
    found = ModelFiles("me/model", **options).find("encoder.ckpt")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert ModelFiles("me/model", **options).find("encoder.ckpt") == found


def test_a_private_model_takes_the_token_of_its_owner(hub, monkeypatch):
    hub.add("me/secret", FILES, private=True)
    with pytest.raises(FileNotFoundError, match=r"'me/secret'.*it is private: check the id.*set HF_TOKEN"):
        ModelFiles("me/secret").find("encoder.ckpt")
    with pytest.raises(FileNotFoundError, match="it is private"):
        ModelFiles("me/secret", fetch_config=FetchConfig(token="wrong")).find("encoder.ckpt")
    shutil.rmtree(hub_cache().parent, ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert ModelFiles("me/secret").find("encoder.ckpt").read_bytes() == FILES["encoder.ckpt"]
    monkeypatch.delenv("HF_TOKEN")
    files = ModelFiles("me/secret", fetch_config=FetchConfig(token=TOKEN))
    assert files.find("hyperparams.yaml").read_bytes() == FILES["hyperparams.yaml"]


def test_every_failure_has_words():
    assert explain_failure(RuntimeError()) == "RuntimeError"
    assert explain_failure(OSError("first line.\nmore")) == "first line"
    assert is_absence(OSError("404")) and not is_absence(OSError("Consistency check failed: too short"))
