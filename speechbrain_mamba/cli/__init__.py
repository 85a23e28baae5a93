"""The command line, ``speechbrain-mamba``. It parses, and leaves the work to the rest of the package.

Nothing here imports torch before a command needs it, so that help comes at once.
"""
