# SPDX-License-Identifier: Apache-2.0
"""Continue a video, or start from an image, following a prompt.

    torchrun --nproc_per_node=8 recipes/generate/video2world.py --checkpoint RUN_FOLDER --cp_size 8 \
        --prompt "The robot lifts the cup." --conditioned_image_or_video_path start.mp4 --num_input_frames 9
"""

from cosmos1.generation import command

if __name__ == "__main__":
    command.run(command.parser(__doc__, video2world=True), video2world=True)
