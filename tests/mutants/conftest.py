"""The tool needs the extra ``mutants``: without it neither its doctests nor its tests are collected."""

from importlib.util import find_spec

if find_spec("mutmut") is None or find_spec("pytest_cov") is None:
    collect_ignore_glob = ["*.py"]
