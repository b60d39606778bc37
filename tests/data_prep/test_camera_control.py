# SPDX-License-Identifier: Apache-2.0
"""Camera control data: rays that belong to the pictures, files, captions, resume, and the answer to each bad input."""

import json
import pickle

import numpy as np
import pytest
import torch

from cosmos1.data.demo_worlds.posed_worlds import Clips, sample_camera_path, write_camera_world
from cosmos1.data.demo_worlds.room_world import furnished_room, render_view
from cosmos1.data.geometry.cameras import CameraPath, opencv_from_opengl, plucker_embeddings, relative_to_first
from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, letterbox_frames
from cosmos1.data.modules.camera_folder import CameraFolderDataModule
from cosmos1.data.sources.captions import read_captions
from cosmos1.data.sources.nerfstudio import read_scene
from cosmos1.errors import ConfigError, DataError
from data_prep import camera_control
from tests.data.posed import scene_files, write_zip

CLIPS = Clips(num_videos=3, num_frames=21, height=40, width=50, fps=7.0, seed=0)
NUM_FRAMES, HEIGHT, WIDTH = 17, 32, 64
SMALL = ["--num_frames", str(NUM_FRAMES), "--height", str(HEIGHT), "--width", str(WIDTH)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three rendered scenes of 40 x 50; scaled to height 32 they are 40 wide and get 12 padded columns on each side."""
    folder = tmp_path_factory.mktemp("scenes")
    write_camera_world(folder, CLIPS)
    return folder


def prepare(scenes, output, *options):
    arguments = ["--dataset_path", str(scenes), "--output_path", str(output), *SMALL, *options]
    camera_control.main(camera_control.build_parser().parse_args(arguments))
    return output


@pytest.fixture(scope="module")
def prepared(scenes, tmp_path_factory):
    options = ("--num_chunks", "2", "--path_to_caption_dict", str(scenes / "captions.json"))
    return prepare(scenes, tmp_path_factory.mktemp("cached") / "out", *options)


def load(folder, **fields):
    module = CameraFolderDataModule(str(folder), num_workers=0, validation_fraction=0.0, shuffle=False, **fields)
    module.setup()
    return module


def largest_miss(rays_t6hw, info):
    """How far the rays of a sample pass by the points that their latent cells show, in units of the translations.

    A point P lies on the line of direction d and moment m if P x d = m. The points come from rendering the world at
    the cells' centres, with cameras that never went through a file.
    """
    scene = int(info["video_path"].split(".")[0])
    cameras, _ = sample_camera_path(CLIPS, scene)
    chunk = cameras.poses[info["start_frame"] : info["start_frame"] + NUM_FRAMES]
    box = letterbox(CLIPS.height, CLIPS.width, HEIGHT, WIDTH)
    _, _, h, w = rays_t6hw.shape
    scale = box.content_height / CLIPS.height
    fx, fy, cx, cy = cameras.intrinsics[0] * scale
    grid = np.array([fx, fy, cx + box.left, cy]) / 8
    relative = relative_to_first(chunk)
    unit = np.linalg.norm(relative[:, None, :3, 3] - relative[None, :, :3, 3], axis=-1).max() or 1.0
    misses = []
    for number, rays in enumerate(rays_t6hw):
        _, depth = render_view(furnished_room(0), h, w, chunk[8 * number], grid, supersampling=1)
        columns, rows = np.meshgrid((np.arange(w) + 0.5 - grid[2]) / grid[0], (np.arange(h) + 0.5 - grid[3]) / grid[1])
        seen = np.stack([columns, rows, np.ones_like(rows)], axis=-1) * depth[..., None]
        points = seen @ relative[8 * number, :3, :3].T + relative[8 * number, :3, 3]
        moment, direction = np.moveaxis(rays, 0, -1)[..., :3], np.moveaxis(rays, 0, -1)[..., 3:]
        inside = (columns[0] > (-cx) / fx) & (columns[0] < (CLIPS.width * scale - cx) / fx)
        misses.append(np.linalg.norm(np.cross(points / unit, direction) - moment, axis=-1)[:, inside].max())
    return max(misses)


def test_rays_pass_through_what_the_pictures_show(prepared):
    module = load(prepared)
    for index, batch in zip(range(6), module.train_batches(0, 1, 0)):
        info = json.loads((prepared / f"{index}.info.json").read_text())
        rays = batch["plucker_embeddings"]
        assert rays.shape == (1, 3, 6, 4, 8) and rays.dtype == torch.float32
        assert largest_miss(rays[0].numpy(), info) < 1e-4


def fault_one_frame_late(path, box):
    return path.of_frames(slice(1, NUM_FRAMES + 1)), box


def fault_pixel_intrinsics(path, box):
    return CameraPath(path.poses, path.intrinsics * [path.width, path.height, 1, 1], path.height, path.width), box


def fault_no_left_padding(path, box):
    to_source = path.width / box.content_width
    return CameraPath(path.poses, path.intrinsics - [0, 0, box.left * to_source, 0], path.height, path.width), box


def fault_opengl_axes(path, box):
    return CameraPath(opencv_from_opengl(path.poses), path.intrinsics, path.height, path.width), box


def fault_world_to_camera(path, box):
    return CameraPath(np.linalg.inv(path.poses), path.intrinsics, path.height, path.width), box


FAULTS = (fault_one_frame_late, fault_pixel_intrinsics, fault_no_left_padding, fault_opengl_axes, fault_world_to_camera)


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_check_of_rays_catches_known_faults(scenes, fault):
    """The faults of the first implementation of this task, each put in on purpose; without one the check passes."""
    scene = read_scene(scenes / "000.zip")
    box = letterbox(scene.height, scene.width, HEIGHT, WIDTH)
    cameras, box = fault(scene.cameras, box) if fault else (scene.cameras, box)
    cameras = letterbox_cameras(cameras.of_frames(slice(0, NUM_FRAMES)), box)
    rays = plucker_embeddings(cameras, HEIGHT // 8, WIDTH // 8)[::8]
    miss = largest_miss(rays, {"video_path": "000.zip", "start_frame": 0})
    assert miss > 1e-2 if fault else miss < 1e-4


def test_cameras_of_the_first_frames_are_a_switch_and_do_not_fit(prepared):
    module = load(prepared, frame_alignment="first")
    rays = next(module.train_batches(0, 1, 0))["plucker_embeddings"][0].numpy()
    info = json.loads((prepared / "0.info.json").read_text())
    assert rays.shape == (3, 6, 4, 8) and largest_miss(rays, info) > 1e-2


def test_a_tokenizer_of_four_frames_per_latent(scenes, tmp_path):
    module = load(prepare(scenes, tmp_path / "out", "--tokenizer", "dct4x8x8"))
    rays = next(module.train_batches(0, 1, 0))["plucker_embeddings"]
    assert rays.shape == (1, 5, 6, 4, 8)
    of_eight = next(load(prepare(scenes, tmp_path / "eight")).train_batches(0, 1, 0))["plucker_embeddings"]
    # Frames 0, 8 and 16 are those of every second latent frame.
    assert torch.equal(rays[:, ::2], of_eight) and not torch.equal(rays[:, 1], rays[:, 2])
    (tmp_path / "out/dataset.json").unlink()
    with pytest.raises(DataError, match="17 pixel frames give 3 latent frames with tokenizer not recorded, .* has 5"):
        load(tmp_path / "out")


def test_padding_is_flagged_on_both_sides_and_rays_are_zero_there(prepared):
    batch = next(load(prepared).train_batches(0, 1, 0))
    mask, rays = batch["padding_mask"], batch["plucker_embeddings"]
    assert batch["image_size"].tolist() == [[32, 64, 32, 40]]
    assert mask[0, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 1]
    assert rays[..., mask[0, 0, 0] == 1].abs().max() == 0 and rays[0, 0, 3:, :, 2:7].norm(dim=0).min() > 0.99


def test_files_and_info(prepared, scenes):
    parts = {*camera_control.PARTS, "video_latent.pth", "conditioning_latent.pth"}
    assert {path.name for path in prepared.iterdir()} == {f"{i}.{part}" for i in range(6) for part in parts} | {
        "dataset.json"
    }
    info = json.loads((prepared / "5.info.json").read_text())
    captions = json.loads((scenes / "captions.json").read_text())
    assert (info["video_path"], info["caption"], info["fps"]) == ("002.zip", captions["002"], 7.0)
    assert (info["num_frames"], info["height"], info["width"]) == (17, 40, 50) and 0 <= info["start_frame"] <= 4
    cameras = torch.load(prepared / "5.cameras.pth", weights_only=True)
    assert cameras.shape == (17, 16) and cameras.dtype == torch.float64


def test_latent_is_that_of_the_letterboxed_pictures(prepared, scenes):
    from cosmos1.data.video import frames_to_tensor
    from cosmos1.models.tokenizers.video import build_video_tokenizer

    info = json.loads((prepared / "3.info.json").read_text())
    scene = read_scene(scenes / info["video_path"])
    frames = letterbox_frames(scene.read_frames(info["start_frame"], 17), letterbox(40, 50, 32, 64))
    expected = build_video_tokenizer("dct", dtype=torch.bfloat16).encode(frames_to_tensor(frames))[0]
    assert torch.equal(torch.load(prepared / "3.video_latent.pth"), expected.bfloat16())


def test_stored_rays_of_other_programs_are_read(scenes, tmp_path):
    output = prepare(scenes, tmp_path / "out", "--write_plucker")
    computed = next(load(output).train_batches(0, 1, 0))["plucker_embeddings"]
    stored = torch.load(output / "0.plucker_embeddings.pth")
    assert stored.shape == (17, 6, 4, 8) and stored.dtype == torch.float32
    for index in range(3):
        (output / f"{index}.cameras.pth").unlink()
    assert torch.allclose(next(load(output).train_batches(0, 1, 0))["plucker_embeddings"], computed)
    with pytest.raises(ConfigError, match="metres_per_unit=2.0: sample 0 .* has stored rays"):
        load(output, metres_per_unit=2.0)
    for bad, words in (
        (stored[:8], r"has shape \(8, 6, 4, 8\), \(17, 6, 4, 8\) is needed"),
        (stored[:, :5], r"has shape \(17, 5, 4, 8\)"),
        (stored * float("nan"), "3264 values are NaN or infinite"),
    ):
        torch.save(bad.clone(), output / "0.plucker_embeddings.pth")
        with pytest.raises(DataError, match=f"0.plucker_embeddings.pth.*{words}"):
            load(output)
    (output / "0.plucker_embeddings.pth").unlink()
    with pytest.raises(DataError, match="sample 0 has neither 0.cameras.pth nor 0.plucker_embeddings.pth"):
        load(output)


def test_metres_can_be_kept(prepared):
    rays, metres = (next(load(prepared, metres_per_unit=scale).train_batches(0, 1, 0)) for scale in (None, 1.0))
    cameras, _ = sample_camera_path(CLIPS, 0)
    start = json.loads((prepared / "0.info.json").read_text())["start_frame"]
    centres = cameras.poses[start : start + 17, :3, 3]
    unit = np.linalg.norm(centres[:, None] - centres[None], axis=-1).max()
    ratio = metres["plucker_embeddings"][0, 2, :3] / rays["plucker_embeddings"][0, 2, :3]
    assert ratio[ratio.isfinite()].mean().item() == pytest.approx(unit, rel=1e-4)
    with pytest.raises(ConfigError, match="data.metres_per_unit=0"):
        load(prepared, metres_per_unit=0.0)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c[:9], r"cameras has shape \(9, 16\), \(17, 16\) is needed"),
        (lambda c: c * float("nan"), "the pose of frame 0 is not finite"),
        (lambda c: c * 1.5, "pose of frame .* is not a rotation"),
    ],
)
def test_damaged_cameras(prepared, tmp_path, change, words):
    import shutil

    folder = shutil.copytree(prepared, tmp_path / "copy")
    torch.save(change(torch.load(folder / "0.cameras.pth")).clone(), folder / "0.cameras.pth")
    with pytest.raises(DataError, match=f"sample 0: .*{words}"):
        load(folder)


def test_resume_fills_gaps_and_the_seed_draws_scenes(scenes, prepared, tmp_path):
    import shutil

    folder = shutil.copytree(prepared, tmp_path / "copy")
    (folder / "4.cameras.pth").unlink()
    options = ("--num_chunks", "2", "--path_to_caption_dict", str(scenes / "captions.json"), "--resume")
    prepare(scenes, folder, *options)
    assert (folder / "4.cameras.pth").read_bytes() == (prepared / "4.cameras.pth").read_bytes()
    chosen = set()
    for seed in range(6):
        arguments = ["--dataset_path", str(scenes), "--num_zip_files", "1", "--seed", str(seed)]
        arguments = camera_control.build_parser().parse_args(arguments)
        chosen |= set(camera_control.choose_scenes(arguments, ["000", "001", "002"]))
    assert chosen == {"000", "001", "002"}


def test_unusable_scenes_are_left_out_and_named(scenes, tmp_path, capsys):
    folder = tmp_path / "scenes"
    folder.mkdir()
    (folder / "good.zip").write_bytes((scenes / "000.zip").read_bytes())
    write_zip(folder / "short.zip", scene_files(9))
    (folder / "broken.zip").write_bytes(b"x")
    captions = tmp_path / "captions.pkl"
    captions.write_bytes(pickle.dumps({"good/0": "A room.", "good/1": "not used", "short/0": "x"}))
    output = prepare(folder, tmp_path / "out", "--path_to_caption_dict", str(captions))
    printed = capsys.readouterr().out
    assert "scene short: 9 frames, a chunk needs 17; skipped." in printed and "broken.zip: cannot be read" in printed
    assert "1 scenes used, 2 left out" in printed and "1 scenes padded at the sides" in printed
    assert json.loads((output / "0.info.json").read_text())["caption"] == "A room."
    with pytest.raises(DataError, match="broken.zip"):
        prepare(folder, tmp_path / "strict", "--strict")
    captions.write_bytes(pickle.dumps({"short/0": "x"}))
    with pytest.raises(DataError, match=r"(?s)scene good: no caption in .*key good/0.*no scene can be used"):
        prepare(folder, tmp_path / "none", "--path_to_caption_dict", str(captions))
    assert not (tmp_path / "none").exists()


def test_scenes_in_folders_of_one_name_stay_apart(tmp_path):
    """a/nerfstudio and b/nerfstudio are two source videos with captions and starts of their own."""
    folder = tmp_path / "scenes"
    for scene in "ab":
        for name, content in scene_files(60).items():
            path = folder / scene / "nerfstudio" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    (folder / "1K").mkdir()
    write_zip(folder / "1K" / "f00.zip", scene_files(60))
    captions = tmp_path / "captions.json"

    def planned(content):
        captions.write_text(json.dumps(content))
        options = ["--dataset_path", str(folder), "--path_to_caption_dict", str(captions), *SMALL]
        arguments = camera_control.build_parser().parse_args(options)
        found, left_out = camera_control.plan(arguments)
        return found, [camera_control.sample_info(arguments, item, 0)["video_path"] for item in found], left_out

    found, sources, left_out = planned(
        {"a/nerfstudio/0": "A.", "b/nerfstudio": "B.", "f00/0": "F.", "f00/1": "not used"}
    )
    assert [(item.scene.name, item.caption) for item in found] == [
        ("1K/f00", "F."),
        ("a/nerfstudio", "A."),
        ("b/nerfstudio", "B."),
    ]
    assert sources == ["1K/f00.zip", "a/nerfstudio", "b/nerfstudio"] and left_out == []
    assert len({item.starts for item in found}) == 3
    # The last part of a name is enough only where it belongs to one scene.
    found, _, left_out = planned({"nerfstudio": "Whose?", "f00": "F."})
    assert [item.scene.name for item in found] == ["1K/f00"] and "scene a/nerfstudio: no caption" in left_out[0]


def test_caption_files(tmp_path):
    (tmp_path / "a.json").write_text('{"train/12": "a", "x/0": "b", "x/1": "c"}')
    assert read_captions(tmp_path / "a.json") == {"train/12": "a", "x": "b"}
    # Line separators of Unicode do not end a line of JSON; editors may begin the file with a byte order mark.
    (tmp_path / "a.jsonl").write_text('{"name": "a", "caption": "one\u2028line\u0085more"}\n', encoding="utf-8-sig")
    assert read_captions(tmp_path / "a.jsonl") == {"a": "one\u2028line\u0085more"}
    for bad in ({("a", 0): "x"}, {"a": 1}, ["a"]):
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps(bad))
        with pytest.raises(DataError, match="bad.pkl: a dict from names to strings is needed"):
            read_captions(tmp_path / "bad.pkl")


def test_a_caption_pickle_cannot_run_code(scenes, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "captions.pkl").write_bytes(pickle.dumps({"000/0": Evil()}))
    with pytest.raises(DataError, match="captions.pkl: holds a builtins.print"):
        prepare(scenes, tmp_path / "out", "--path_to_caption_dict", str(tmp_path / "captions.pkl"))
