"""The site builds, its notebook runs, its links lead somewhere, and every document is in its menu."""

import doctest
import html
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs_jupyter")
pytest.importorskip("mkdocstrings_handlers.python")

ROOT = Path(__file__).parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, check_links, docstrings = tool("pages"), tool("check_links"), tool("docstrings")


def leaves(nav):
    """The documents that a menu names."""
    for item in nav:
        for value in item.values() if isinstance(item, dict) else [item]:
            yield from leaves(value) if isinstance(value, list) else [value]


def test_every_document_is_in_the_menu():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    menu = list(leaves(yaml.safe_load(text)["nav"]))
    documents = {path.relative_to(ROOT).as_posix() for path in pages.documents()}
    assert len(menu) == len(set(menu))
    assert set(menu) == documents, "add new documents to nav in mkdocs.yml"


def test_addresses_have_no_docs_and_no_readme():
    urls = {name: pages.page_url(name) for name in ("README.md", "docs/use.md", "recipes/asr/README.md", "RESULTS.md")}
    assert list(urls.values()) == ["index.html", "use/index.html", "recipes/asr/index.html", "studies/index.html"]
    every = [pages.page_url(path.relative_to(ROOT).as_posix()) for path in pages.documents()]
    assert len(every) == len(set(every)), "two documents have one address"


def test_links_lead_to_readmes_and_modules():
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="docs/page.md"))
    given = "[a](../recipes/asr) [b](../speechbrain_mamba/nnet/mamba.py) [c](../tests/golden) [d](use.md#train)"
    assert pages.on_page_markdown(given, page, None, None) == (
        "[a](../recipes/asr/README.md) [b](../api/speechbrain_mamba.nnet.mamba.md) c [d](use.md#train)"
    )


@pytest.mark.parametrize("module", [check_links, docstrings])
def test_examples_of_the_tools(module, tmp_path):
    names = {**vars(module), "getfixture": {"tmp_path": tmp_path}.get}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    tests = doctest.DocTestFinder().find(module, module.__name__, globs=names)
    failed = sum(runner.run(test).failed for test in tests)
    assert runner.tries and not failed


def test_docstrings_are_translated():
    given = (
        "Sums.\n\n.. math::\n    y = x^2\n\nAs :func:`~torch.sum` does::\n\n    y = 1\n\nExample\n-------\n>>> 1\n1\n"
    )
    assert docstrings.translate(given) == (
        "Sums.\n\n```latex\ny = x^2\n```\n\nAs `sum` does:\n\n    y = 1\n\nExamples\n--------\n>>> 1\n1\n"
    )


def roles():
    for path in sorted((ROOT / "speechbrain_mamba").rglob("*.py")):
        for match in docstrings.ROLE.finditer(path.read_text(encoding="utf-8")):
            name = match["name"].lstrip("~")
            if name.startswith("speechbrain_mamba."):
                yield name


def exists(name):
    try:
        if importlib.util.find_spec(name):  # a module, perhaps one that needs an extra
            return True
    except ModuleNotFoundError:
        pass  # within a module
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ModuleNotFoundError):
        owner, _, last = name.rpartition(".")
        fields = getattr(pkgutil.resolve_name(owner), "__annotations__", {})  # of a data class, without defaults
        return last in fields
    return True


def test_docstrings_refer_to_what_there_is():
    names = set(roles())
    assert len(names) > 50
    assert not [name for name in sorted(names) if not exists(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. All warnings are errors: mkdocs.yml is strict."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_the_site(site):
    """One test, so that one process builds."""
    assert not list(check_links.faults(site))
    tour = text_of(site / "docs" / "tour" / "index.html")
    gains = [float(gain) for gain in re.findall(r"([+-][\d.]+) dB by the separation$", tour, re.MULTILINE)]
    assert len(gains) == 2 and min(gains) > 3
    assert re.search(r"end three nine one five two eight zero", tour)
    assert re.search(r"the recognizer hears: \w+", tour)
    assert "in two chunks: True" in tour and "padded: True" in tour
    assert "data:image/png;base64," in (site / "docs" / "tour" / "index.html").read_text(encoding="utf-8")
    mamba = text_of(site / "api" / "speechbrain_mamba.nnet.mamba" / "index.html")
    assert "Parameters:" in mamba and "Examples:" in mamba and ":class:" not in mamba
