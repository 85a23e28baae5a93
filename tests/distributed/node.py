"""What one process of a node does: run recipes one after the other, as torchrun would start each."""

import json
import runpy
import sys
from pathlib import Path


def main():
    for script, *arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
