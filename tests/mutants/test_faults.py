"""The mutation tool plants the faults that it promises, and no others."""

import pytest

from tests.mutants.faults import difference, find_faults


def changes(tmp_path, name, text):
    """Every change to a file, as pairs of the lines before and after."""
    (tmp_path / name).write_text(text)
    return [difference(text, fault.mutate()) for fault in find_faults(tmp_path, name)]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("x = a + 1", ["x = a - 1", "x = a + 2"]),
        ("if ready: run()", ["if not (ready): run()", "if ready: pass"]),
        ("y = f(a, b=2)", ["y = f(b=2)", "y = f(a, )", "y = f(a, b=3)"]),
        ("done = i < n", ["done = i <= n"]),
        ("flag = True", ["flag = False"]),
    ],
)
def test_faults_of_a_statement(tmp_path, line, changed):
    found = changes(tmp_path, "code.py", line + "\n")
    assert all(before == line for before, _ in found)
    assert sorted(after for _, after in found) == sorted(changed)


def test_messages_types_decorators_and_looks_stay(tmp_path):
    text = (
        "@cached(1)\ndef f(x: list[2]):\n    raise ValueError(3)\n\n\n"
        "logger.info('%d', 4)\nprint(5)\nplot(x, color=c)\n"
    )
    assert changes(tmp_path, "code.py", text) == [("plot(x, color=c)", "pass"), ("plot(x, color=c)", "plot(color=c)")]


def test_faults_know_their_function_and_statement(tmp_path):
    text = """
class Layer:
    def forward(self, x):
        if (
            x
        ):
            return g(
                2
            )
"""
    (tmp_path / "code.py").write_text(text)
    found = {(fault.scope, fault.line, fault.lines) for fault in find_faults(tmp_path, "code.py")}
    assert found == {("Layer.forward", 4, (4, 6)), ("Layer.forward", 8, (7, 9))}


def test_numbers_and_flags_of_yaml(tmp_path):
    text = """!include:base.yaml
# not 1
lr: 0.5    # or 2
layer3: !new:a.b3
    n: !ref <n_4> * 2
sizes: [5, 6]
on: False
"""
    assert changes(tmp_path, "a.yaml", text) == [
        ("lr: 0.5    # or 2", "lr: 1.0    # or 2"),
        ("n: !ref <n_4> * 2", "n: !ref <n_4> * 3"),
        ("sizes: [5, 6]", "sizes: [6, 6]"),
        ("sizes: [5, 6]", "sizes: [5, 7]"),
        ("on: False", "on: True"),
    ]
