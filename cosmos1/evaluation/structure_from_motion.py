# SPDX-License-Identifier: Apache-2.0
"""Camera motion of a whole video by structure from motion, with pycolmap where it is installed."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.evaluation.geometry import Motion

if TYPE_CHECKING:
    import numpy as np


def poses_by_pycolmap(frames: "np.ndarray", intrinsics: "np.ndarray") -> Motion:
    """Cameras of frames (T, H, W, 3) relative to the first, up to one scale for all. `intrinsics` (4,) are kept fixed.

    Raises ConfigError when pycolmap is not installed. Frames that are not registered count as not found; without the
    first frame none is.
    """
    import numpy as np

    try:
        import pycolmap
    except ImportError as error:
        raise ConfigError("structure from motion needs pycolmap: pip install pycolmap") from error
    from PIL import Image

    motion = Motion(np.tile(np.eye(4), (len(frames), 1, 1)), np.zeros(len(frames), bool))
    with tempfile.TemporaryDirectory() as folder:
        pictures, database = Path(folder) / "pictures", Path(folder) / "database.db"
        pictures.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(pictures / f"{number:05d}.png")
        reader = pycolmap.ImageReaderOptions(
            camera_model="PINHOLE", camera_params=",".join(f"{float(value)}" for value in intrinsics)
        )
        pycolmap.extract_features(database, pictures, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
        pycolmap.match_sequential(database)
        options = pycolmap.IncrementalPipelineOptions(
            ba_refine_focal_length=False, ba_refine_principal_point=False, ba_refine_extra_params=False
        )
        found = pycolmap.incremental_mapping(database, pictures, folder, options)
    largest = max(found.values(), key=lambda reconstruction: reconstruction.num_reg_images(), default=None)
    if largest is None:
        return motion
    poses = {int(Path(image.name).stem): _camera_to_world(image) for image in largest.images.values()}
    if 0 in poses:
        for number, pose in poses.items():
            motion.poses[number] = np.linalg.inv(poses[0]) @ pose
            motion.found[number] = True
    return motion


def _camera_to_world(image) -> "np.ndarray":
    import numpy as np

    pose = np.eye(4)
    world_to_camera = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
    pose[:3] = world_to_camera.matrix()
    return np.linalg.inv(pose)
