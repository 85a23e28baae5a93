#!/usr/bin/env python3
"""List WSJ0-2mix or WSJ0-3mix (Hershey et al., 2016), or other data in the same layout:

    <data_folder>/2speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2}/*.wav
    <data_folder>/3speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2,s3}/*.wav

The data folder may be the folder 2speakers or 3speakers itself. The mixtures exist already; only their manifests are
made here.

    python recipes/separation/prepare_wsj0mix.py DATA_FOLDER SAVE_FOLDER --num_spks 2 --sample_rate 8000
"""

from __future__ import annotations

from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation
from speechbrain_mamba.corpora.wsj0mix import prepare_wsj0mix


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = preparation_parser(__doc__, "folder of 2speakers and 3speakers, or one of these", "where the manifests go")
    parser.add_argument("--num_spks", type=int, default=2, help="speakers per mixture")
    parser.add_argument("--sample_rate", type=int, default=8000, help="8000 or 16000")
    parser.add_argument("--mode", default="min", help="min or max: as long as the shortest or the longest source")
    parser.add_argument("--base_folder_dm", help="training speech of WSJ0, for dynamic mixing")
    run_preparation(parser, prepare_wsj0mix, arguments)


if __name__ == "__main__":
    main()
