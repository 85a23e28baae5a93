"""The settings of all hyper-parameter files, in tables: a row for each key, a column for each file.

``python -m tests.hparams.settings`` writes the tables again after an intended change; read their difference.
"""

import csv
import functools
import io
import re

from ruamel.yaml import YAML

from speechbrain_mamba.utils.hparams import read_hparams
from tests.conftest import GOLDEN, HPARAMS

TASKS = sorted({path.parent.name for path in HPARAMS.glob("*/*.yaml")})


def read_settings(path):
    """Every value of a file and of those that it includes, as text by dotted key; references are not resolved."""
    return flatten(read_tree(path) if path.is_relative_to(HPARAMS) else YAML().load(read_hparams(path)))


read_text = functools.cache(read_hparams)
"""A file of ours with those that it includes. Each is read by several tests, and takes a tenth of a second."""


@functools.cache
def read_tree(path):
    """The same as a YAML document, which is not to be changed."""
    return YAML().load(read_text(path))


def flatten(tree):
    """Every value of a YAML document, as text by dotted key."""
    found = {}

    def walk(node, key):
        tag = getattr(getattr(node, "tag", None), "value", None)
        if isinstance(node, dict):
            if tag:
                found[key] = tag
            for name, child in node.items():
                walk(child, f"{key}.{name}" if key else str(name))
        elif isinstance(node, list):
            found[key] = f"{tag or ''}[{len(node)}]"
            for i, child in enumerate(node):
                walk(child, f"{key}.{i}")
        elif tag:
            found[key] = f"{tag} {node.value}".strip()
        else:
            found[key] = {None: "null"}.get(node, str(node))

    walk(tree, "")
    return found


def value_of(settings, key):
    """A setting with references resolved, as YAML reads it; None where there is no such key."""
    text = settings.get(key)
    if text is None or text == "[]":
        return None
    if text.startswith("["):
        return [value_of(settings, f"{key}.{i}") for i in range(int(text[1:-1]))]
    if text.startswith("!ref <") and text.endswith(">"):
        return value_of(settings, text[len("!ref <") : -1])
    half = re.fullmatch(r"!ref <(\w+)> // (\d+)", text)
    if half:
        return value_of(settings, half[1]) // int(half[2])
    return YAML(typ="safe").load(text)


def files_of(task):
    """The files of a task that people train with, by name."""
    return {path.stem: path for path in sorted((HPARAMS / task).glob("*.yaml"))}


def write_table(task):
    """The table of a task, as CSV. Column "all" has values that all files share; an empty cell means no such key."""
    columns = {name: read_settings(path) for name, path in files_of(task).items()}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["key", "all", *columns])
    for key in sorted({key for settings in columns.values() for key in settings}):
        cells = [settings.get(key, "") for settings in columns.values()]
        writer.writerow([key, cells[0]] if len(set(cells)) == 1 else [key, "", *cells])
    return table.getvalue()


def table_path(task):
    """Where the table of a task is kept."""
    return GOLDEN / f"settings_{task}.csv"


if __name__ == "__main__":
    for task in TASKS:
        table_path(task).write_text(write_table(task), encoding="utf-8")
