"""Patterns of parameter names: on command lines, and what they stand for."""

import pytest

from speechbrain_mamba.training.patterns import check_patterns, matches, quote_patterns, read_patterns
from speechbrain_mamba.training.run import parse_arguments

NAMES = ["encoder.conv1d.weight", "masknet.conv1d_1.weight", "masknet.conv1d_1.bias", "masknet.norm.weight"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["*.norm.*"], ["*.norm.*"]),
        (["[*.norm.*, masknet]"], ["*.norm.*", "masknet"]),
        (["['*.norm.*']"], ["*.norm.*"]),
        (["a.*,b", "c"], ["a.*", "b", "c"]),
        (["a.*, b"], ["a.*", "b"]),
        (['["a", "b"]'], ["a", "b"]),
        (["[]"], []),
        (["null"], []),
        ([], []),
    ],
)
@pytest.mark.parametrize("option", ["init_skip", "freeze"])
def test_patterns_of_a_command_line_are_lists(option, given, expected):
    _, run_opts, options, _ = parse_arguments(["toy.yaml", f"--{option}", *given, "--lr", "0.1", "--device", "cpu"])
    assert options == {option: expected, "lr": 0.1} and run_opts.device == "cpu"


def test_a_pattern_may_follow_an_equals_sign_and_the_last_option():
    assert quote_patterns(["a.yaml", "--lr=1", "--freeze=*.x"]) == ["a.yaml", "--lr=1", "--freeze", '["*.x"]']
    once = quote_patterns(["a.yaml", "--freeze", "*.x,y"])
    assert quote_patterns(once) == once


@pytest.mark.parametrize(
    ("value", "expected"), [(None, []), ([], []), ("a, b", ["a", "b"]), (["a", "b,c"], ["a", "b", "c"])]
)
def test_settings_of_a_file_are_lists_or_text(value, expected):
    assert read_patterns(value) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("masknet", [1, 2, 3]), ("masknet.*", [1, 2, 3]), ("masknet.conv1d_*", [1, 2]), ("*.weight", [0, 1, 3]),
        ("masknet.conv1d_1", [1, 2]), ("mask", []), ("*conv1d*", [0, 1, 2]), ("masknet.conv1d_?.bias", [2]),
        ("Masknet", []),
    ],
)  # fmt: skip
def test_a_pattern_stands_for_names_and_for_modules(pattern, expected):
    assert [place for place, name in enumerate(NAMES) if matches(name, pattern)] == expected


def test_a_pattern_that_stands_for_nothing_is_named_with_what_is_near():
    check_patterns("freeze", ["encoder", "*.bias"], NAMES)
    with pytest.raises(ValueError, match=r"init_skip has 'masknt.conv1d_\*', but .* Near are: .*masknet.conv1d_1"):
        check_patterns("init_skip", ["encoder", "masknt.conv1d_*"], NAMES)
    with pytest.raises(ValueError, match=r"freeze has 'zzz', but .* There are encoder, masknet"):
        check_patterns("freeze", ["zzz"], NAMES)
