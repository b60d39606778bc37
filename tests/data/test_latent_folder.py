# SPDX-License-Identifier: Apache-2.0
"""Batches, order, resume, held-out split, and what each damaged input is answered with."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import ConfigError, DataError
from tests.data.conftest import write_sample

ROOT = Path(__file__).parents[2]


def build(folder, **fields):
    module = LatentFolderDataModule(str(folder), **{"num_workers": 0, "validation_fraction": 0.0, **fields})
    module.setup()
    return module


def stream(module, dp_size, consumed, num_steps):
    """Return (position, sample) of num_steps global batches over all data-parallel ranks, in position order."""
    per_step = module.global_batch_size // (module.micro_batch_size * dp_size)
    found = []
    for rank in range(dp_size):
        for batch in islice(module.train_batches(rank, dp_size, consumed), per_step * num_steps):
            values = batch["video"][:, 0, 0, 0, 0].int().tolist()
            found += zip(batch["sample_position"].tolist(), values)
        module.close()
    return sorted(found)


def test_batch_has_the_documented_keys_shapes_and_types(latent_folder):
    batch = next(build(latent_folder, micro_batch_size=2, global_batch_size=2).train_batches(0, 1, 0))
    expected = {
        "video": ((2, 16, 2, 4, 6), torch.bfloat16),
        "t5_text_embeddings": ((2, 512, 1024), torch.bfloat16),
        "t5_text_mask": ((2, 512), torch.bfloat16),
        "fps": ((2,), torch.float32),
        "num_frames": ((2,), torch.int64),
        "image_size": ((2, 4), torch.int64),
        "padding_mask": ((2, 1, 4, 6), torch.float32),
        "sample_position": ((2,), torch.int64),
    }
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == expected
    # The target size, not the source size; and a rate that bfloat16 would have rounded to 30.
    assert batch["image_size"][0].tolist() == [32, 48, 32, 48]
    assert batch["fps"][0].item() == pytest.approx(29.97)


def test_conditioning_latent_only_on_request(latent_folder):
    batch = next(build(latent_folder, require_conditioning_latent=True).train_batches(0, 1, 0))
    assert torch.equal(batch["gt_latent"], batch["video"])
    (latent_folder / "7.conditioning_latent.pth").unlink()
    build(latent_folder)
    with pytest.raises(DataError, match=r"sample 7 has no file 7.conditioning_latent.pth.*--resume"):
        build(latent_folder, require_conditioning_latent=True)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_order_does_not_depend_on_the_number_of_workers(latent_folder, num_workers):
    expected = stream(build(latent_folder, global_batch_size=4), 1, 0, 4)
    assert stream(build(latent_folder, global_batch_size=4, num_workers=num_workers), 1, 0, 4) == expected


def test_each_epoch_is_complete_and_wraps(latent_folder):
    values = [value for _, value in stream(build(latent_folder, global_batch_size=4), 1, 0, 6)]
    assert sorted(values[:12]) == sorted(values[12:]) == list(range(12)) and values[:12] != values[12:]


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize("micro, dp_size", [(1, 1), (2, 2), (1, 4)])
def test_resumed_stream_continues_with_exactly_the_next_sample(latent_folder, stop_after, micro, dp_size):
    whole = stream(build(latent_folder, micro_batch_size=2, global_batch_size=4), 1, 0, 7)
    first = build(latent_folder, micro_batch_size=2, global_batch_size=4)
    begun = stream(first, 2, 0, stop_after)
    state = first.state_dict(consumed_samples=4 * stop_after)
    second = build(latent_folder, micro_batch_size=micro, global_batch_size=4)
    second.load_state_dict(state)
    assert begun + stream(second, dp_size, state["consumed_samples"], 7 - stop_after) == whole


def test_state_of_other_data_is_refused_with_both_values(latent_folder):
    state = build(latent_folder).state_dict(8)
    with pytest.raises(ConfigError, match="seed was 0 in the checkpoint and is 5 now"):
        build(latent_folder, seed=5).load_state_dict(state)
    write_sample(latent_folder, 12, video="6.mp4")
    with pytest.raises(ConfigError, match=f"fingerprint was {state['fingerprint']} in the checkpoint and is"):
        build(latent_folder).load_state_dict(state)


def test_loading_does_not_touch_the_global_random_state(latent_folder):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stream(build(latent_folder), 1, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_split_is_over_videos_and_repeatable(latent_folder):
    module = build(latent_folder, validation_fraction=0.34)
    train, held_out = module.split_names()
    assert len(held_out) == 4 and sorted(train + held_out, key=int) == [str(index) for index in range(12)]
    videos = [{int(name) // 2 for name in names} for names in (train, held_out)]
    assert not videos[0] & videos[1]
    assert build(latent_folder, validation_fraction=0.34).split_names() == (train, held_out)


def test_validation_is_fixed_and_equal_on_every_rank(latent_folder):
    module = build(latent_folder, validation_fraction=0.34, num_workers=1)
    batches = [list(module.validation_batches(rank, 3, None)) for rank in range(3)]
    read = [[batch["sample_position"].tolist() for batch in of_rank] for of_rank in batches]
    assert read == [[[0], [3]], [[1], [0]], [[2], [1]]]
    counted = [[batch["counted"].tolist() for batch in of_rank] for of_rank in batches]
    assert counted == [[[1], [1]], [[1], [0]], [[1], [0]]]
    assert len(list(module.validation_batches(0, 1, 2))) == 2


def test_separate_validation_folder(latent_folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_sample(other, 40)
    module = build(latent_folder, validation_path=str(other))
    (batch,) = module.validation_batches(0, 1, None)
    assert batch["video"].max() == 40 and len(module.split_names()[0]) == 12


def test_one_video_leaves_nothing_to_hold_out(tmp_path):
    write_sample(tmp_path, 0)
    module = build(tmp_path, validation_fraction=0.1)
    assert list(module.validation_batches(0, 1, None)) == []
    assert any("one source video only" in line for line in module.describe())


def test_names_are_sorted_as_numbers_and_strays_are_ignored(latent_folder):
    (latent_folder / ".hidden").write_text("x")
    (latent_folder / "notes.txt").write_text("x")
    assert build(latent_folder).split_names()[0] == [str(index) for index in range(12)]


def test_unfinished_samples_are_left_out_and_reported(latent_folder):
    (latent_folder / "3.info.json").unlink()
    module = build(latent_folder)
    assert "3" not in module.split_names()[0]
    assert any("11 of 12 samples are finished" in line for line in module.describe())


def test_batch_larger_than_the_data_needs_repeat(latent_folder):
    with pytest.raises(ConfigError, match="12 training samples.*global_batch_size=16"):
        build(latent_folder, global_batch_size=16).train_batches(0, 1, 0)
    assert len(stream(build(latent_folder, global_batch_size=16, repeat=True), 1, 0, 1)) == 16


def damage_rank(folder):
    torch.save(torch.zeros(16, 4), folder / "5.video_latent.pth")


def damage_shape(folder):
    write_sample(folder, 5, shape=(16, 3, 4, 6))


def damage_values(folder):
    latent = torch.zeros(16, 2, 4, 6)
    latent[0, 0, 0, :2] = torch.tensor([float("nan"), 5000.0])
    torch.save(latent, folder / "5.video_latent.pth")


def damage_cut(folder):
    path = folder / "5.video_latent.pth"
    path.write_bytes(path.read_bytes()[:-100])


def damage_pickle(folder):
    torch.save({"latent": LatentFolderDataModule("x")}, folder / "5.video_latent.pth")


def damage_width(folder):
    torch.save(torch.zeros(512, 4096), folder / "5.t5_text_embeddings.pth")


def damage_mask(folder):
    torch.save(torch.ones(77), folder / "5.t5_text_mask.pth")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "damage, words",
    [
        (damage_rank, r"sample 5: video_latent has shape \(16, 4\), expected \(16, t, h, w\)"),
        (damage_shape, r"sample 5: video_latent is \(16, 3, 4, 6\) but sample 0 is \(16, 2, 4, 6\)"),
        (damage_values, "sample 5: video_latent: 2 values are not usable .1 are NaN"),
        (damage_cut, r"5.video_latent.pth: cannot be loaded as a tensor"),
        (damage_pickle, r"5.video_latent.pth: cannot be loaded as a tensor"),
        (damage_width, r"sample 5: text embeddings have shape \(512, 4096\).*T5-XXL"),
        (damage_mask, r"sample 5: the text mask has shape \(77,\), the embeddings 512 rows"),
    ],
)
def test_damaged_samples_stop_the_run_with_their_name(latent_folder, damage, words, num_workers):
    damage(latent_folder)
    module = build(latent_folder, shuffle=False, num_workers=num_workers)
    batches = module.train_batches(0, 1, 0)
    assert [next(batches)["sample_position"].item() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=words) as caught:
        next(batches)
    assert "Traceback" not in str(caught.value)


def test_allowed_bad_samples_are_replaced_counted_and_limited(latent_folder, caplog):
    damage_rank(latent_folder)
    module = build(latent_folder, shuffle=False, max_bad_samples=1)
    values = [int(batch["video"].max()) for batch in islice(module.train_batches(0, 1, 0), 12)]
    assert values == [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11] and module.num_bad_samples == 1
    assert "bad sample 1 of 1" in caplog.text and "sample 5" in caplog.text
    with pytest.raises(DataError, match="2 bad samples, data.max_bad_samples=1"):
        list(islice(build_and_read_twice(latent_folder), 24))


def build_and_read_twice(folder):
    return build(folder, shuffle=False, max_bad_samples=1).train_batches(0, 1, 0)


def test_setup_errors(latent_folder, tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sample found"):
        build(tmp_path / "empty")
    with pytest.raises(DataError, match=r"is \(16, 2, 4, 6\) but this recipe needs \(16, 16, 88, 160\).*121"):
        build(latent_folder, latent_shape=[16, 16, 88, 160])
    with pytest.raises(ConfigError, match="validation_fraction=1.5"):
        build(latent_folder, validation_fraction=1.5)
    (latent_folder / "2.t5_text_mask.pth").unlink()
    with pytest.raises(DataError, match="sample 2 has no file 2.t5_text_mask.pth"):
        build(latent_folder)
    (latent_folder / "1.info.json").write_text("{")
    (latent_folder / "2.info.json").unlink()
    with pytest.raises(DataError, match="1.info.json: cannot be read as JSON"):
        build(latent_folder)


def test_short_text_is_padded_with_zero_rows(tmp_path):
    write_sample(tmp_path, 0, rows=5)
    batch = next(build(tmp_path).train_batches(0, 1, 0))
    assert batch["t5_text_embeddings"].shape == (1, 512, 1024) and batch["t5_text_mask"].sum() == 5


@pytest.mark.parametrize("ending", ["pass", "raise RuntimeError('crash')"])
def test_a_process_ends_although_its_workers_do_not_hear_termination(tmp_path, ending):
    script = tmp_path / "script.py"
    lines = [
        "import torch",
        "from cosmos1.data.batches.loader import load_batches",
        "load = lambda p: {'x': torch.tensor(p)}",
    ]
    lines += [
        "batches = load_batches(iter([[i] for i in range(10**6)]), load, 2, 2)",
        "print(next(batches)['x'].item())",
    ]
    script.write_text("\n".join([*lines, ending]))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert ended.stdout == "0\n" and ended.returncode == (ending != "pass")
    assert "DataLoader worker" not in ended.stderr


def test_facts_that_are_no_object(latent_folder):
    (latent_folder / "dataset.json").write_text("[1]")
    with pytest.raises(DataError, match="dataset.json: holds a list, an object is needed"):
        build(latent_folder)


@pytest.mark.parametrize("name, value", [("tokenizer", "cosmos_cv8x8x8"), ("text_encoder", "t5"), ("height", 64)])
def test_held_out_folder_of_other_facts(latent_folder, tmp_path, name, value):
    facts = {"num_samples": 1, "tokenizer": "dct", "text_encoder": "hashed", "height": 32}
    (latent_folder / "dataset.json").write_text(json.dumps(facts))
    other = tmp_path / "other"
    other.mkdir()
    write_sample(other, 0)
    (other / "dataset.json").write_text(json.dumps(facts))
    assert build(latent_folder, validation_path=str(other)).num_validation_samples == 1
    (other / "dataset.json").write_text(json.dumps({**facts, name: value}))
    with pytest.raises(DataError, match=f"data.validation_path={other}: {name}: {value} here, {facts[name]} in"):
        build(latent_folder, validation_path=str(other))
