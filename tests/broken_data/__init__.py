"""A folder of broken audio files and manifests, with what must become of each of them.

    python -m tests.broken_data FOLDER --files 2000

writes the folder, prepares it as the recipes do, and accounts for every file.
"""
