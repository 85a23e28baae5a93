"""``python -m speechbrain_mamba``."""

from speechbrain_mamba.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
