"""One file per command, found by its name: it defines ``command``, a :class:`~speechbrain_mamba.cli.program.Command`.

An underscore in a file's name is a hyphen in the command's. One at its end is dropped: Python has no module ``try``.
"""
