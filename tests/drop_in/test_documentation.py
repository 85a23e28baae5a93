from pathlib import Path

from speechbrain_mamba.drop_in.served_names import MODULES

TEXT = (Path(__file__).parents[2] / "docs" / "drop_in.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| `")]


def test_the_document_lists_every_name():
    for module, names in MODULES.items():
        if names:
            [row] = [row for row in ROWS if f"`{module}`" in row.split("|")[1]]
            assert not [name for name in names if f"`{name}`" not in row], module
