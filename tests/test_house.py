"""The rules of the house: who may import whom, and how things are called and spelled."""

import ast
import collections
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from speechbrain import Brain
from speechbrain.utils.checkpoints import Checkpointer

import speechbrain_mamba

ROOT = Path(__file__).parents[1]
PACKAGE = "speechbrain_mamba"
PRODUCT = [PACKAGE, "recipes", "benchmarks"]
COMPAT = Path(PACKAGE, "utils", "_compat.py")

FLOORS = [
    ["utils"],
    ["ops"],
    ["text"],
    ["dataio"],
    ["nnet", "corpora"],
    ["lobes", "codecs", "decoders", "drop_in"],
    ["training"],
    ["inference", "evaluation"],
    ["doctor"],
    ["cli"],
    ["__main__", "recipes", "benchmarks"],
]
"""Folders and modules from the ground up. Each imports itself and floors below, never another one of its floor."""

BRITISH = (
    r"recognis|normalis|summaris|initialis|organis|parameteris|tokenis|quantis|serialis|vectoris|generalis|minimis"
    r"|maximis|utilis|discretis|regularis|randomis|synchronis|visualis|characteris|binaris|finalis|specialis|localis"
    r"|optimis(?:e|i|a)|synthesis(?:e|ing)|analys(?:e[dr]?\b|ing)|emphasis(?:e|ing)|behaviour|colour|favour|neighbour"
    r"|flavour|honour|labour|licence|defence|centre|\bmetres?\b|grey|modell(?:ed|ing|er)|labell(?:ed|ing)"
    r"|cancell(?:ed|ing)|travell(?:ed|ing)|signall(?:ed|ing)|\bprogramme\b|\blearnt\b|\bspelt\b|\bwhilst\b"
)
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".c", ".h", ".cff", ".in", ".txt"}
CORPUS = Path(PACKAGE, "corpora", "mini", "sentences.py")
"""Sentences that are spoken: their spelling decides on the sound."""
OTHERS = Path("tests", "golden", "speechbrain")
"""Files of SpeechBrain, unchanged."""


def files(*tops, suffixes=(".py",)):
    """Files below some folders, relative to the root."""
    paths = (path for top in tops for path in sorted((ROOT / top).rglob("*")) if path.suffix in suffixes)
    return [path.relative_to(ROOT) for path in paths if "__pycache__" not in path.parts and path.is_file()]


def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


SOURCES = {path: tree(path) for path in files(*PRODUCT)}


def nodes(*kinds, skip=()):
    """All nodes of some kinds in the product's code, with where they are."""
    for path, module in SOURCES.items():
        if path not in skip:
            for node in ast.walk(module):
                if isinstance(node, kinds):
                    yield path, f"{path}:{node.lineno}", node


def imported(path, node):
    """The full names that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = path.parent.parts
    base = [*parts[: len(parts) - node.level + 1]] if node.level else []
    return [".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names]


def check_none(found):
    """Fail with everything that breaks a rule."""
    found = list(found)
    assert not found, "\n".join(["", *found])


def imports(skip=()):
    for path, place, node in nodes(ast.Import, ast.ImportFrom, skip=skip):
        for name in imported(path, node):
            yield path, place, name


def test_imports_run_down_only():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    unknown, upwards = set(), []
    for path, place, name in imports():
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) == 1 or path == Path(PACKAGE, "__init__.py"):
            continue
        own, other = path.with_suffix("").parts[path.parts[0] == PACKAGE], parts[1]
        unknown |= {own, other} - floor.keys() - {"__version__"}
        if own != other and floor.get(other, -1) >= floor.get(own, -1):
            upwards.append(f"{place} imports {name}")
    assert not unknown, "give these a floor"
    check_none(upwards)


def test_the_package_imports_no_recipe():
    scripts = {path.stem for path in files("recipes")}
    check_none(
        f"{place} imports {name}"
        for path, place, name in imports()
        if path.parts[0] == PACKAGE and name.split(".")[0] in {"recipes", "benchmarks", "tests", *scripts}
    )


def test_no_file_name_stands_three_times():
    paths = collections.defaultdict(list)
    for path in files(*PRODUCT, "hparams", "docs", suffixes=(".py", ".c", ".h", ".yaml", ".md")):
        if "bundled_models" in path.parts:  # what a loader looks for
            continue
        if path.name not in ("__init__.py", "README.md") and not (path.parts[0] == "recipes" and path.stem == "train"):
            paths[path.name].append(str(path))
    check_none(", ".join(same) for same in paths.values() if len(same) > 2)


def test_only_tests_are_called_so():
    check_none(str(path) for path in files(*PRODUCT) if re.match(r"test_|.*_test$", path.stem))
    functions = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    check_none(f"{place} {node.name}" for _, place, node in functions if re.match("test(_|$)", node.name))


COMMANDS = [Path(PACKAGE, name) for name in ("cli", "utils/terminal.py")]


def test_only_commands_print():
    check_none(
        place
        for path, place, node in nodes(ast.Call)
        if path.parts[0] == PACKAGE and not any(path.is_relative_to(command) for command in COMMANDS)
        if isinstance(node.func, ast.Name) and node.func.id == "print"
    )


def is_dict(node):
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"
    return called or isinstance(node, (ast.Dict, ast.DictComp))


def test_dictionaries_have_telling_names():
    check_none(
        f"{place} {target.id}"
        for _, place, node in nodes(ast.Assign, ast.AnnAssign, ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id in ("shape", "what") and node.value and is_dict(node.value)
    )


def test_brains_are_called_so():
    def last(base):
        return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")

    check_none(
        f"{place} {node.name}"
        for _, place, node in nodes(ast.ClassDef)
        if any(last(base).endswith("Brain") for base in node.bases) and not node.name.endswith("Brain")
    )


PRIVATE = re.compile(r"_(?!_)\w")
NAMED_TUPLE = {"_fields", "_replace", "_asdict", "_make"}
"""Public in spite of their names: the fields of a named tuple may have any other one."""


def test_private_modules_and_names_of_others_are_imported_in_compat_only():
    check_none(
        f"{place} imports {name}"
        for _, place, name in imports(skip=[COMPAT])
        if not name.startswith(f"{PACKAGE}.") and any(PRIVATE.match(part) for part in name.split("."))
    )


def own_names(module):
    """Private attributes that the classes of a module define."""
    names = set()
    for cls in (node for node in ast.walk(module) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(cls):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def of_itself(node):
    """Whether an attribute is one of self, cls or super()."""
    name = node.func if isinstance(node, ast.Call) else node
    return isinstance(name, ast.Name) and name.id in ("self", "cls", "super")


def test_private_attributes_of_others_are_touched_in_compat_only():
    own = {path: own_names(module) for path, module in SOURCES.items() if path != COMPAT}
    anywhere, touched = set().union(*own.values()), []
    for path, place, node in nodes(ast.Attribute, ast.Call, skip=[COMPAT]):
        if isinstance(node, ast.Attribute):
            name, owner = node.attr, node.value
        elif isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr"):
            owner, name = node.args[0], str(getattr(node.args[1], "value", ""))
        else:
            continue
        known = NAMED_TUPLE | (anywhere if of_itself(owner) else own[path])
        if PRIVATE.match(name) and name not in known:
            touched.append(f"{place} {name}")
    check_none(touched)


def private_methods(cls):
    return {name for name, member in vars(cls).items() if inspect.isfunction(member) and PRIVATE.match(name)}


def test_private_methods_of_a_brain_are_overridden_in_compat_only():
    foreign = private_methods(Brain) | private_methods(Checkpointer)
    check_none(
        f"{place} {member.name}"
        for _, place, node in nodes(ast.ClassDef, skip=[COMPAT])
        for member in node.body
        if isinstance(member, ast.FunctionDef) and member.name in foreign
    )


@pytest.mark.slow
def test_private_methods_of_others_are_overridden_in_compat_only():
    overridden, compat = [], ".".join(COMPAT.with_suffix("").parts)
    for info in pkgutil.walk_packages(speechbrain_mamba.__path__, f"{PACKAGE}."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:
            continue  # of an optional package
        for _, cls in inspect.getmembers(module, inspect.isclass):
            foreign = [base for base in cls.__mro__ if not base.__module__.startswith(PACKAGE)]
            theirs = set().union(*map(private_methods, foreign))
            if cls.__module__ == info.name != compat:
                own = {name for name in private_methods(cls) if vars(cls)[name].__module__ == info.name}
                overridden += [f"{info.name}.{cls.__name__}.{name}" for name in own & theirs]
    check_none(overridden)


def written(*tops):
    """Text files that people read, with their lines."""
    top = [path.relative_to(ROOT) for path in sorted(ROOT.iterdir()) if path.suffix in TEXT or path.name == "Makefile"]
    for path in [*files(*PRODUCT, "hparams", "docs", *tops, suffixes=TEXT), *top]:
        if path not in (CORPUS, Path("tests/test_house.py")) and not path.is_relative_to(OTHERS):
            for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
                yield f"{path}:{number}", line


def test_spelling_is_american():
    # lower case, and first without the letters around: an eighth of the time that one pattern of whole words takes
    british, word = re.compile(BRITISH), re.compile(r"\w+")
    check_none(
        f"{place} {whole}"
        for place, line in written("tests", ".github", ".ci")
        if british.search(line.lower())
        for whole in word.findall(line.lower())
        if british.search(whole)
    )


def test_worn_words_are_not_used():
    worn = re.compile(r"\btwins?\b|\banew\b|\bof one's own\b|\bso many\b|\bgoes on from\b", re.IGNORECASE)
    check_none(f"{place} {words}" for place, line in written() for words in worn.findall(line))
