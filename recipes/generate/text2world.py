# SPDX-License-Identifier: Apache-2.0
"""Generate a video from a prompt.

    torchrun --nproc_per_node=8 recipes/generate/text2world.py --checkpoint RUN_FOLDER --cp_size 8 \
        --prompt "A video of sks teal robot." --video_save_path generated.mp4
"""

from cosmos1.generation import command

if __name__ == "__main__":
    command.run(command.parser(__doc__, video2world=False), video2world=False)
