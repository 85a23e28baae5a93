"""The names that a model may use: they exist, and their code reads, writes, downloads and runs nothing on its own."""

import ast
import functools
import importlib.util
import inspect
import textwrap

import pytest

from speechbrain_mamba.utils.allowed_names import ALLOWED, LIMITED, PRETRAINER
from speechbrain_mamba.utils.yaml_builder import _locate

NEEDS_TRANSFORMERS = (".huggingface.", ".huggingface_transformers.")
PLAIN = [name for name in ALLOWED if name not in LIMITED]
HARMFUL = {
    *("open", "eval", "exec", "compile", "__import__", "import_module", "locate", "system", "popen", "Popen", "run"),
    *("load", "loads", "fetch", "download", "urlretrieve", "urlopen", "from_pretrained", "hf_hub_download", "unlink"),
    *("remove", "rmtree", "mkdir", "makedirs", "save", "dump", "write_text", "write_bytes", "read_text", "read_bytes"),
    *("run_on_main", "hub", "load_state_dict_from_url", "script", "add_dll_directory", "CDLL", "getattr", "setattr"),
}
KNOWN = {
    # attributes that the code itself names
    ("speechbrain_mamba.nnet.mamba", "getattr"),
    ("speechbrain_mamba.nnet.mamba_layer", "getattr"),
    ("speechbrain_mamba.lobes.models.separation.dual_path", "getattr"),
    ("speechbrain_mamba.lobes.models.separation.dual_path", "setattr"),
    ("speechbrain.decoders.seq2seq", "getattr"),
    # labels are read from and saved to paths that a caller gives, never the constructor's
    ("speechbrain.dataio.encoder", "open"),
    ("speechbrain.dataio.encoder", "load"),
    ("speechbrain.dataio.encoder", "save"),
    # statistics: inference.loadables reads them
    ("speechbrain.processing.features", "load"),
    ("speechbrain.processing.features", "save"),
}


def test_each_name_can_be_found():
    transformers = importlib.util.find_spec("transformers")
    for name in ALLOWED:
        if transformers or not any(part in name for part in NEEDS_TRANSFORMERS):
            assert callable(_locate(name)), name


@functools.cache
def called(function):
    """The last names of all that the code of a class or function calls."""
    return set(find_calls(function))


def find_calls(function):
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr not in ("eval", "remove"):  # of modules and lists
            yield node.func.attr
        constant = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
        if isinstance(node.func, ast.Name) and not (node.func.id == "getattr" and constant):
            yield node.func.id


def constructors(found):
    """The parts of a class of SpeechBrain or of ours that run without a caller's word: constructors, its own and those
    of the classes it extends, and what they can call; a function whole."""
    if not inspect.isclass(found):
        return [found]
    return [base for base in found.__mro__ if base.__module__.split(".")[0] in ("speechbrain", "speechbrain_mamba")]


@pytest.mark.parametrize("name", [name for name in PLAIN if not name.startswith("torch.")])
def test_no_name_reads_writes_downloads_or_runs_anything(name):
    for part in constructors(_locate(name)):
        harmful = HARMFUL & called(part)
        unknown = {word for word in harmful if (part.__module__, word) not in KNOWN}
        assert not unknown, f"{name}: {part.__module__} calls {unknown}"


@pytest.mark.parametrize("name", [name for name in PLAIN if name.startswith("torch.")])
def test_of_torch_only_layers_are_named(name):
    assert name.startswith("torch.nn.") and name.count(".") == 2


def test_names_that_could_do_harm_are_limited():
    for name, permission in LIMITED.items():
        assert permission.uses != {"new", "name"} and len(permission.uses) == 1, name
        if permission.uses == {"new"}:
            assert permission.only is not None and permission.by_name
    assert "trust_remote_code" not in {word for rule in LIMITED.values() for word in rule.only or ()}
    assert LIMITED["sentencepiece.SentencePieceProcessor"].only == frozenset()
    assert LIMITED[PRETRAINER].only.isdisjoint({"custom_hooks", "conditions"})
