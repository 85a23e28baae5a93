"""Work for processes, without a model."""

import os
import time
from pathlib import Path

from speechbrain_mamba.cli.files import Done


class Upper:
    """Gives the name of a file in capitals; the name may ask for more."""

    def __call__(self, task):
        name = task.source.name
        if "lost" in name:
            os._exit(9)
        if "wait" in name:
            part = Path(f"{task.outputs[0]}.{os.getpid()}.tmp")
            try:
                part.write_text("unfinished")
                time.sleep(60)
            finally:
                part.unlink(missing_ok=True)
        if "fault" in name:
            raise ZeroDivisionError("no sense")
        return Done(f"{name.upper()} {os.getpid()}", [f"notice of {name}"])


def fail():
    """Work that cannot begin."""
    raise FileNotFoundError("there is no model")
