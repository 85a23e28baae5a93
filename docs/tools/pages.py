"""Hooks of MkDocs: the site has the repository's own layout, so that every relative link works there as it does here.

The pages are `docs/`, the READMEs and other documents beside the code, and one page per public module. Links to folders
lead to their README, links to a module to its page, and other files that documents link to are copied.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "speechbrain_mamba"
DOCUMENTS = (
    "*.md",
    "docs/*.md",
    "docs/*.ipynb",
    "recipes/*/README.md",
    "benchmarks/*/README.md",
    "tests/*/README.md",
    f"{PACKAGE}/inference/bundled_models/*/README.md",
)
ELSEWHERE = {"SECURITY.md": "policy/index.html", "RESULTS.md": "studies/index.html"}
"""Addresses of documents that have a namesake in docs/."""
PICTURES = (".png", ".svg", ".jpg")
SHOWN = {
    "ops": "Operations",
    "nnet": "Layers",
    "lobes": "Models",
    "inference": "Use of models",
    "codecs": "Codecs",
    "text": "Text",
    "decoders": "Search and sampling",
    "dataio": "Data",
    "corpora": "Corpora",
    "training": "Training",
    "evaluation": "Scores and reports",
}
"""Folders of the package with pages for their modules, and their titles."""

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FOLDER_LINK = re.compile(r"\[(?P<title>[^\]]+)\]\((?P<target>[^)\s#:]+)\)")


@functools.cache
def public_modules() -> dict[str, Path]:
    """Modules that have a page, with their files: those with a public class or function; of `ops`, what it exports."""
    found = {}
    for folder in SHOWN:
        top = ROOT / PACKAGE / folder
        exported = set(re.findall(rf"from {PACKAGE}\.{folder}\.(\w+) import", (top / "__init__.py").read_text("utf-8")))
        for path in sorted(top.rglob("*.py")):
            private = path.name.startswith("_") or (folder == "ops" and path.stem not in exported)
            if not private and re.search(r"^(?:class|def) [^_]", path.read_text(encoding="utf-8"), re.MULTILINE):
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    linked = re.compile(rf"\]\([./]*({PACKAGE}/[\w/]+)\.py\)")
    for document in documents():
        for name in linked.findall(document.read_text(encoding="utf-8")):
            found[name.replace("/", ".")] = ROOT / f"{name}.py"
    return found


def api_page(module: str) -> str:
    """Where the page of a module is, as seen from the root of the repository."""
    return f"api/{module}.md"


def page_url(source: str) -> str:
    """Where a document is on the site: README.md is the home page, and docs/ does not show in addresses."""
    if source in ELSEWHERE:
        return ELSEWHERE[source]
    path = PurePosixPath(source.removeprefix("docs/"))
    folder = path.parent if path.name == "README.md" else path.with_suffix("")
    return str(folder / "index.html").lower()


def documents() -> list[Path]:
    """All documents of the repository that are pages."""
    return sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)})


def linked_files() -> Iterator[Path]:
    """Files, other than documents and modules of the package, that documents link to."""
    pages = {*documents(), *public_modules().values()}
    for document in documents():
        if document.suffix == ".md":
            for _, target, _, _ in LINK.findall(document.read_text(encoding="utf-8")):
                path = (document.parent / target).resolve()
                if path.is_file() and path.is_relative_to(ROOT) and path not in pages:
                    yield path


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by all documents of the repository, under their paths from its root."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = Files([*theme, *(_file(path, config) for path in documents())])
    styles = sorted((ROOT / "docs").rglob("*.css"))
    pictures = [path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in PICTURES]
    for path in sorted({*linked_files(), *styles, *pictures}):
        pages.append(_file(path, config))
    for module in public_modules():
        title = module.removeprefix(f"{PACKAGE}.").removeprefix("lobes.models.")
        content = f"---\ntitle: {title}\n---\n# {module}\n\n::: {module}\n"
        pages.append(File.generated(config, api_page(module), content=content))
    return pages


def _file(path: Path, config: MkDocsConfig) -> File:
    source = path.relative_to(ROOT).as_posix()
    file = File(source, str(ROOT), config.site_dir, use_directory_urls=True)
    if path.suffix == ".md":
        file.dest_uri = page_url(source)
    elif path.suffix != ".ipynb":  # mkdocs-jupyter chooses the address of notebooks
        file.dest_uri = source.removeprefix("docs/")
    return file


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Add the pages of the modules, a section per folder of the package."""
    sections: dict[str, list[Page]] = {}
    for module in public_modules():
        file = files.get_file_from_path(api_page(module))
        assert file is not None
        folder = module.split(".")[1]
        page = Page(None, file, config)
        sections.setdefault(SHOWN.get(folder, "Others"), []).append(page)
        nav.pages.append(page)
    api = Section("API", [Section(title, pages) for title, pages in sections.items()])
    for section in api.children or []:
        section.parent = api
        for page in section.children or []:
            page.parent = section
    nav.items.append(api)
    for before, after in zip(nav.pages, nav.pages[1:]):
        before.next_page, after.previous_page = after, before
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Send links to folders to their READMEs, and links to modules of the package to their pages.

    A folder without a README is not on the site: its name stays, without the link.
    """
    if page.file.src_uri.startswith("api/") or page.file.src_uri.endswith(".ipynb"):
        return markdown
    here = (ROOT / page.file.src_uri).parent
    modules = {path: module for module, path in public_modules().items()}  # of files

    def redirect(match: re.Match[str]) -> str:
        opening, target, heading, closing = match.groups()
        path = (here / target).resolve()
        if path.is_dir() and (path / "README.md").is_file():
            target = f"{target.rstrip('/')}/README.md"
        elif path in modules:
            target = f"{'../' * len(here.relative_to(ROOT).parts)}{api_page(modules[path])}"
        return f"{opening}{target}{heading or ''}{closing}"

    def unlink(match: re.Match[str]) -> str:
        return match["title"] if (here / match["target"]).is_dir() else match[0]

    return FOLDER_LINK.sub(unlink, LINK.sub(redirect, markdown))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Resolve the links of notebooks, which MkDocs leaves as they are."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content

    def resolve(match: re.Match[str]) -> str:
        source = PurePosixPath(page.file.src_uri).parent / match["path"]
        file = files.get_file_from_path(str(source))
        return match[0] if file is None else f'href="{file.url_relative_to(page.file)}{match["heading"] or ""}"'

    return re.sub(r'href="(?P<path>[^":#]+\.md)(?P<heading>#[^"]*)?"', resolve, content)


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Rebuild in `mkdocs serve` when a document outside of docs/ changes."""
    config.watch.extend(str(ROOT / folder) for folder in ("recipes", PACKAGE, "README.md", "CONTRIBUTING.md"))
    return config
