"""Files of pretrained models."""

import huggingface_hub
import pytest

from speechbrain_mamba.utils.pretrained import ModelFiles, fetch_pretrained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one model, and what was asked of it."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "lm.ckpt").write_text("weights")
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename))
        if (repo_id, filename) != ("someone/model", "lm.ckpt"):
            raise OSError("404: nothing there")
        return str(tmp_path / "cache" / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_folder_is_taken_as_it_is(tmp_path, hub):
    (tmp_path / "model" / "parts").mkdir(parents=True)
    (tmp_path / "model" / "parts" / "a.ckpt").write_text("here")
    for source in (tmp_path / "model", str(tmp_path / "model")):
        found = fetch_pretrained(source, "parts/a.ckpt", tmp_path / "collected")
        assert found == tmp_path / "model" / "parts" / "a.ckpt"
    with pytest.raises(FileNotFoundError, match=r"The folder '.*model' has no b\.ckpt"):
        fetch_pretrained(tmp_path / "model", "b.ckpt")
    with pytest.raises(FileNotFoundError, match="has no parts"):
        fetch_pretrained(tmp_path / "model", "parts")
    assert not hub and not (tmp_path / "collected").exists()


@pytest.mark.parametrize(
    "find", [fetch_pretrained, lambda folder, name: ModelFiles(folder).find(name)], ids=["one file", "a model's files"]
)
def test_a_link_out_of_a_folder_is_refused(tmp_path, find):
    folder, blob = tmp_path / "model", tmp_path / "hub" / "models--someone--model" / "blobs" / "0123"
    folder.mkdir()
    blob.parent.mkdir(parents=True)
    for path in (tmp_path / "secret.ckpt", blob, folder / "here.ckpt"):
        path.write_text("weights")
    for name, target in (("lm.ckpt", tmp_path / "secret.ckpt"), ("inside.ckpt", "here.ckpt"), ("cached.ckpt", blob)):
        (folder / name).symlink_to(target)
    with pytest.raises(ValueError, match=r"lm\.ckpt' is a link out of its folder, to '.*secret\.ckpt'.* a copy if"):
        find(folder, "lm.ckpt")
    for name in ("inside.ckpt", "cached.ckpt"):
        assert find(folder, name).read_text() == "weights"
    (tmp_path / "other name").symlink_to(folder)
    assert find(tmp_path / "other name", "here.ckpt").read_text() == "weights"


def test_a_file_of_the_hub_is_collected_where_it_is_asked_for(tmp_path, hub):
    found = fetch_pretrained("someone/model", "lm.ckpt", tmp_path / "collected")
    assert found == tmp_path / "collected" / "lm.ckpt"
    assert found.read_text() == "weights"
    assert fetch_pretrained("someone/model", "lm.ckpt") == tmp_path / "cache" / "lm.ckpt"
    assert set(hub) == {("someone/model", "lm.ckpt")}


def test_what_the_hub_does_not_have_is_named(hub):
    message = r"'someone/model' is not a folder, and the Hub gave no am\.ckpt .*404: nothing there"
    with pytest.raises(FileNotFoundError, match=message):
        fetch_pretrained("someone/model", "am.ckpt")
    with pytest.raises(FileNotFoundError, match=r"'no/one' is not a folder"):
        fetch_pretrained("no/one", "lm.ckpt")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("./there", "There is no folder './there'."),
        ("there/", "There is no folder 'there/'."),
        ("some one", "There is no folder 'some one'."),
        ("models/seperator/", "There is no folder 'models/seperator/'. Did you mean 'models/separator'?"),
        ("./model/separator", "There is no folder './model/separator'. Did you mean 'models/separator'?"),
        ("models/other/1234/inference", "There is no folder 'models/other/1234/inference'. 'models' holds no 'other'."),
        ("models/separator/hyperparams.yaml", "'models/separator/hyperparams.yaml' is a file, but a model is a folder. "
         "Did you mean 'models/separator'?"),
        ("https://huggingface.co/someone/model/tree/main", "'https://huggingface.co/someone/model/tree/main' is an "
         "address: give the id of the model, 'someone/model'."),
    ],
)  # fmt: skip
def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(tmp_path, monkeypatch, hub, source, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "separator").mkdir(parents=True)
    (tmp_path / "models" / "separator" / "hyperparams.yaml").write_text("size: 3\n")
    for look in (lambda: fetch_pretrained(source, "lm.ckpt"), lambda: ModelFiles(source).find("lm.ckpt")):
        with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
            look()
        assert str(caught.value) == told
    assert not hub


def test_a_path_in_the_form_of_an_id_gets_near_names_too(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "separator").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"404: nothing there\. Did you mean 'models/separator'\?$"):
        fetch_pretrained("models/seperator", "lm.ckpt")
    assert hub
