# SPDX-License-Identifier: Apache-2.0
"""Start from a picture and move the camera along a given path.

    torchrun --nproc_per_node=8 recipes/generate/camera_control.py --checkpoint RUN_FOLDER --cp_size 8 \
        --conditioned_image_or_video_path start.png --prompt "A bright kitchen." --camera_path orbit --camera_path_amount 25

``--camera_extrinsics_path`` takes a path from a file instead. Docs: docs/camera_control.md.
"""

from cosmos1.generation import camera_control, command

if __name__ == "__main__":
    command.run_program(camera_control.parser(__doc__), camera_control.generate)
