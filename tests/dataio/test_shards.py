"""Training data in tar shards: written, read, dealt out, resumed, and their faults."""

import io
import itertools
import json
import tarfile

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_mamba.dataio import process_batches, shards
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.shard_writer import write_shards
from speechbrain_mamba.dataio.shards import ShardBatches, ShardDataset, ShardLoader, UnusableExampleError, list_shards
from speechbrain_mamba.training.seeding import seeded

pytest.importorskip("webdataset")

RATE, COUNT = 8000, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty utterances in six shards, and one that is corrupt."""
    folder = tmp_path_factory.mktemp("shards")
    items = {}
    for i in range(COUNT):
        seconds = 0.05 + 0.01 * (i % 7)
        write_audio(folder / f"{i}.wav", torch.full((round(seconds * RATE),), i / 64), RATE)
        items[f"utt{i}"] = {"wav": folder / f"{i}.wav", "duration": seconds, "wrd": f"NUMBER {i}"}
    (folder / "bad.wav").write_bytes(b"RIFFnothing")
    items["bad"] = {"wav": folder / "bad.wav", "duration": 1.0, "wrd": "BAD"}
    totals = write_shards(items, folder / "shards", RATE, per_shard=6)
    assert totals == {"shards": 6, "examples": COUNT, "seconds": pytest.approx(2.35, abs=0.2), "skipped": 1}
    assert json.loads((folder / "shards/shards.json").read_text()) == totals
    return folder / "shards"


def decode(facts, read):
    if facts["wrd"] == "NUMBER 13":
        raise UnusableExampleError("an unlucky number")
    return {"id": facts["id"], "sig": read(), "drawn": torch.rand(1)}


@pytest.fixture
def make(folder, monkeypatch):
    """A loader of one of several processes, and its place."""

    def make(rank=0, count=1, workers=0, pattern="shard-{000000..000005}.tar", batches=12, **options):
        for module in (process_batches, shards):
            monkeypatch.setattr(module, "process_rank", lambda: rank)
            monkeypatch.setattr(module, "count_processes", lambda: count)
        options = {"max_batch_length": 0.3, "buffer_size": 4, "seeding": seeded, **options}
        dataset = ShardDataset(str(folder / pattern), decode, sample_rate=RATE, **options)
        place = ShardBatches(dataset, batches, workers=workers)
        return ShardLoader(dataset, place, num_workers=workers), place

    return make


def train(made, epoch=1, steps=None):
    """The ids and random numbers of the batches of an epoch, or of its first steps."""
    loader, place = made
    place.set_epoch(epoch)
    found = []
    for batch in itertools.islice(loader, steps):
        place.advance()
        found.append(list(zip(batch.id, batch.drawn.data[:, 0].tolist())))
    return found


def test_an_epoch_has_all_examples_and_another_order(make):
    whole = [name for batch in train(make(batches=40)) for name, _ in batch]
    assert {f"utt{i}" for i in range(COUNT) if i != 13} == set(whole)
    signal = next(iter(make()[0])).sig
    assert 0.0 <= float(signal.data.max()) < 0.5 and len(signal.lengths) > 1
    first, again, second = train(make()), train(make()), train(make(), epoch=2)
    assert first == again and first != second and len(first) == 12
    assert train(make(seed=1)) != first


@pytest.mark.parametrize(("workers", "steps"), [(0, 5), (2, 5), (2, 4), (3, 1)])
def test_a_resumed_epoch_goes_on_with_the_next_batch(make, tmp_path, workers, steps):
    whole, second = train(make(workers=workers)), train(make(workers=workers), epoch=2)
    loader, place = make(workers=workers)
    assert train((loader, place), steps=steps) == whole[:steps]
    Checkpointer(tmp_path, {"place": place}).save_checkpoint(end_of_epoch=False)
    loader, place = make(workers=workers)
    Checkpointer(tmp_path, {"place": place}).recover_if_possible()
    assert train((loader, place)) == whole[steps:] and place.position == 12
    assert train((loader, place), epoch=2) == second


def test_processes_share_the_shards_and_have_equally_many_batches(make):
    parts = [train(make(rank, 2, batches=7)) for rank in range(2)]
    assert [len(part) for part in parts] == [7, 7]
    first = [{name for batch in part[:3] for name, _ in batch} for part in parts]
    assert first[0].isdisjoint(first[1])


def test_another_number_of_processes_waits_for_the_end_of_an_epoch(make, tmp_path, monkeypatch):
    _, place = make(workers=2)
    Checkpointer(tmp_path, {"place": place}).save_checkpoint(end_of_epoch=False)
    _, place = make(count=2, workers=2)
    message = "that 1 processes with 2 workers each read, but now there are 2 with 2: .* can be changed after an epoch"
    with pytest.raises(ValueError, match=message):
        Checkpointer(tmp_path, {"place": place}).recover_if_possible()
    Checkpointer(tmp_path / "whole", {"place": make(workers=2)[1]}).save_checkpoint(end_of_epoch=True)
    Checkpointer(tmp_path / "whole", {"place": make(count=2, workers=2)[1]}).recover_if_possible()


def test_the_main_process_saves_alone_after_the_last_batch(make, tmp_path, monkeypatch):
    """As it does when it is told to end while it validates."""
    monkeypatch.setattr(shards, "gather", lambda value: pytest.fail("the others are not there"))
    made = make(count=2, batches=3)
    train(made)
    Checkpointer(tmp_path, {"place": made[1]}).save_checkpoint(end_of_epoch=False)
    made = make(count=2, batches=3)
    Checkpointer(tmp_path, {"place": made[1]}).recover_if_possible()
    assert train(made) == [] and len(train(made, epoch=2)) == 3


def test_what_is_left_out_is_named_and_counted(make, caplog):
    train(make(batches=30))
    assert "Left out 'utt13' of the shard" in caplog.text and "an unlucky number" in caplog.text
    assert "examples of the shards that were left out: " in caplog.text


def test_a_corrupt_sound_is_left_out(make, folder, tmp_path, caplog):
    with tarfile.open(tmp_path / "one.tar", "w") as tar, tarfile.open(folder / "shard-000000.tar") as source:
        for number, member in enumerate(source):
            data = source.extractfile(member).read()
            data = data[:50] if number == 1 else data
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = train(make(pattern=tmp_path / "one.tar", batches=3))
    assert len({name for batch in found for name, _ in batch}) >= 3
    assert f"of the shard '{tmp_path / 'one.tar'}'" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_cut_short_is_named(make, folder, tmp_path, workers):
    for number in range(2):
        data = (folder / f"shard-00000{number}.tar").read_bytes()
        (tmp_path / f"cut{number}.tar").write_bytes(data[:3000] if number else data)
    with pytest.raises(ValueError, match=r"The shard '.*cut1.tar' cannot be read to its end \(.*\): write or download"):
        train(make(pattern=str(tmp_path / "cut{0..1}.tar"), workers=workers, buffer_size=2))


def test_commands_are_read_and_their_failure_is_named(make, folder):
    command = f"pipe:cat {folder}/shard-00000{{0..2}}.tar"
    assert len(train(remake(make, command, 4))) == 4
    with pytest.raises(ValueError, match=r"The shard 'pipe:cat /nowhere.tar' cannot be read to its end"):
        train(remake(make, "pipe:cat /nowhere.tar", 4))


def remake(make, command, batches):
    """A loader of a command, which is not below a folder."""
    loader, place = make(batches=batches)
    loader.batches.dataset.shards = list_shards(command)
    return loader, place


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("/nowhere/{0..1}.tar", FileNotFoundError, "The shard '/nowhere/0.tar' does not exist"),
        ([], ValueError, "No shard is given"),
        (["pipe:a", "pipe:a"], ValueError, "'pipe:a' is given twice"),
    ],
)
def test_lists_of_shards(given, error, message):
    with pytest.raises(error, match=message):
        list_shards(given)


def test_each_worker_needs_a_shard(make):
    with pytest.raises(ValueError, match="There are 6 shards for 3 processes with 4 workers each"):
        train(make(count=3, workers=4))


def test_examples_without_facts_are_named(make, tmp_path):
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        member = tarfile.TarInfo("a.wav")
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(ValueError, match=r"The example 'a' of the shard '.*odd.tar' must have a .json file"):
        train(make(pattern=tmp_path / "odd.tar"))


def test_nothing_to_write(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    items = {"bad": {"wav": tmp_path / "bad.wav", "duration": 1.0, "wrd": "BAD"}}
    with pytest.raises(ValueError, match="None of the 1 utterances can be used"):
        write_shards(items, tmp_path / "out", RATE)
    with pytest.raises(ValueError, match="per_shard is 0"):
        write_shards(items, tmp_path / "out", RATE, per_shard=0)
