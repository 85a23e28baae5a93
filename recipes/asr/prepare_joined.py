#!/usr/bin/env python3
"""Join utterances of one speaker to longer ones, for recognition of recordings that are longer than the training's.

    python recipes/asr/prepare_joined.py MANIFESTS SAVE_FOLDER --train 1 2 --test 1 2 4

MANIFESTS has train.csv, valid.csv and test.csv with the columns ID, duration, wav, wrd and spk_id, such as the folder
save/ of a run. Then: train.py ... --corpus manifest --data_folder SAVE_FOLDER --train_splits '[train.csv]'
--valid_splits '[valid.csv]' --test_splits '[test_1.csv, test_2.csv, test_4.csv]'.
"""

from __future__ import annotations

from speechbrain_mamba.corpora.joined import prepare_joined
from speechbrain_mamba.corpora.scripts import preparation_parser, run_preparation


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = preparation_parser(__doc__, "the folder of manifests", "where the joined recordings and manifests go")
    parser.add_argument("--train", type=int, nargs="+", default=[1, 2], help="utterances joined in the training")
    parser.add_argument("--test", type=int, nargs="+", default=[1, 2, 4], help="utterances joined in the test sets")
    parser.add_argument("--train_utterances", type=int, help="utterances of each number in the training; all")
    parser.add_argument("--test_utterances", type=int, help="the same for validation and test sets")
    parser.add_argument("--seed", type=int, default=0)
    run_preparation(parser, prepare_joined, arguments)


if __name__ == "__main__":
    main()
