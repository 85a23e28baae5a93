"""Pictures that are looked at before they are files."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved, the latest last. To draw them is slow; the examples of the docstrings do."""
    saved = []

    def savefig(self, path, **options):
        saved.append(self)
        path.write_text("picture")

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved
