# SPDX-License-Identifier: Apache-2.0
"""Roll a robot's video out from one picture, following the actions of an annotation.

    torchrun --nproc_per_node=8 recipes/generate/action_control.py --checkpoint RUN_FOLDER --cp_size 8 \
        --input_image_or_video_path bridge/videos/val/24/rgb.mp4 \
        --action_annotation_path bridge/annotation/val/24.json --video_save_path 24.mp4

For all episodes of a split, each into <episode>.mp4 of a folder, as `python -m cosmos1.evaluation action_following` reads
them; with --shuffle_actions each follows the actions of the next episode:

    torchrun ... --dataset_path bridge --split val --video_save_path generated

Convention of the actions, picture size and frame rate are those of training.
"""

from cosmos1.generation import action_command, command

if __name__ == "__main__":
    command.run_program(action_command.parser(__doc__), action_command.generate)
