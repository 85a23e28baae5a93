"""How the scripts of recipes end."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.main_process import is_told_by_main
from speechbrain_mamba.utils.mistakes import MISTAKES, is_full, is_mistake, words_of

logger = logging.getLogger(__name__)


def run_script(main: Callable[[], None]) -> None:
    """Run a script. A user's mistake ends it with one sentence and exit code 1, anything else with its traceback.

    Arguments
    ---------
    main : callable
        The script. With ``--debug`` on its command line mistakes have tracebacks too, which the log file always has.

    Example
    -------
    In a recipe::

        if __name__ == "__main__":
            run_script(main)
    """
    try:
        main()
    except MISTAKES as error:
        if is_told_by_main(error):
            raise SystemExit(1) from None
        if "--debug" in sys.argv or not is_mistake(error, Path(sys.argv[0]).resolve().parent):
            raise
        logger.debug("%s", error, exc_info=True)
        rank = os.environ.get("RANK", "0")
        advice = ": free some space, and give the same command again." if is_full(error) else ""
        sys.stderr.write(f"error{'' if rank == '0' else f' in process {rank}'}: {words_of(error)}{advice}\n")
        raise SystemExit(1) from None
    leave_processes()
