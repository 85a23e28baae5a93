"""Where the command line finds recipes and hyper-parameter files."""

import pytest

from speechbrain_mamba.cli import locations
from speechbrain_mamba.cli.locations import find_hparams, find_recipe, find_share, list_names, list_tasks
from tests.conftest import HPARAMS


def test_a_checkout_has_them_beside_the_package():
    assert find_share() == HPARAMS.parent
    assert set(list_tasks()) == {path.name for path in HPARAMS.iterdir() if path.is_dir()}
    for task in list_tasks():
        assert list_names(task) == sorted(path.stem for path in (HPARAMS / task).glob("*.yaml"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with nothing around it."""
    monkeypatch.setattr(locations, "PACKAGE", tmp_path / "site-packages" / "speechbrain_mamba")
    locations.PACKAGE.mkdir(parents=True)
    return locations.PACKAGE


def test_an_installed_package_has_them_inside(package):
    for folder in (package / "share", package.parent):
        (folder / "hparams" / "tts").mkdir(parents=True)
        (folder / "recipes").mkdir()
    (package / "share" / "hparams" / "tts" / "own.yaml").write_text("a: 1")
    assert find_share() == package / "share"
    assert find_hparams("own", "tts") == find_hparams("tts/own") == package / "share" / "hparams" / "tts" / "own.yaml"
    with pytest.raises(FileNotFoundError, match=r"There is no recipe '.*tts.train\.py'\."):
        find_recipe("tts")


def test_an_installation_without_them_is_named(package):
    (package / "share" / "hparams").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"speechbrain_mamba has no recipes: .*share' nor .*Install it again"):
        find_share()


def test_a_file_is_found_by_path_or_by_name(tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    for task in (None, "tts"):
        assert find_hparams("own.yaml", task) == find_hparams(str(tmp_path / "own.yaml"), task) == tmp_path / "own.yaml"
    assert find_hparams("tts/vallm") == find_hparams("vallm", "tts") == HPARAMS / "tts" / "vallm.yaml"


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("none.yaml", "tts", r"There is no hyper-parameter file 'none\.yaml'\."),
        ("none/none.yaml", None, r"There is no hyper-parameter file 'none/none\.yaml'\."),
        ("vallm", None, "'vallm' is not a hyper-parameter file: give the path of one, or TASK/NAME"),
        ("tss/vallm", None, r"There is no task 'tss'\. Did you mean 'tts'\? Choose from asr, codec,"),
        (
            "vall",
            "tts",
            r"There is no tts model 'vall'\. Did you mean '.*'\? Choose from bundled_vallm_digits, mini_valle,",
        ),
        ("base/tts", "tts", r"There is no tts model 'base/tts'\."),
        ("qqq", "codec", r"There is no codec model 'qqq'\. Choose from bundled_codec, mini_codec\.$"),
    ],
)
def test_what_is_not_there_is_named(name, task, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        find_hparams(name, task)
