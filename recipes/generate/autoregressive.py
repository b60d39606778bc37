# SPDX-License-Identifier: Apache-2.0
"""Continue a video or an image, token by token; the processes of torchrun share the network.

    torchrun --nproc_per_node=4 recipes/generate/autoregressive.py --checkpoint RUN_FOLDER \
        --input_image_or_video_path start.mp4 --num_input_frames 9 --top_p 0.8 --video_save_path generated.mp4

With a Video2World checkpoint add --prompt "The robot lifts the cup."
"""

from cosmos1.generation import autoregressive_command as command

if __name__ == "__main__":
    command.run(command.parser(__doc__))
