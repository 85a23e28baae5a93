"""What one process of a node does: run recipes one after the other, as torchrun would start each."""

import json
import runpy
import sys
from pathlib import Path

import speechbrain.utils.distributed
import speechbrain.utils.logger

from speechbrain_mamba.utils import distributed


def main():
    # a group that is joined again would find the addresses of the first one in torchrun's store
    join, leave = speechbrain.utils.distributed.ddp_init_group, distributed.leave_processes
    speechbrain.utils.distributed.ddp_init_group = lambda options: distributed.in_group() or join(options)
    distributed.leave_processes = lambda: None
    speechbrain.utils.logger.get_environment_description = str  # as tests/conftest.py does
    for script, *arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
    leave()


if __name__ == "__main__":
    main()
