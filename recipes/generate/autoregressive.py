# SPDX-License-Identifier: Apache-2.0
"""Continue a video or an image, token by token; the processes of torchrun share the network.

    torchrun --nproc_per_node=4 recipes/generate/autoregressive.py --checkpoint RUN_FOLDER \
        --input_image_or_video_path start.mp4 --num_input_frames 9 --top_p 0.8 --video_save_path generated.mp4

With a Video2World checkpoint add --prompt "The robot lifts the cup.", and what the network was trained to obey:

    action control    --action_annotation_path episode.json in place of the prompt, or --dataset_path bridge for all episodes
    camera control    --camera_path orbit --camera_path_amount 25, or --camera_extrinsics_path FILE
    several views     --conditioned_images front.png left.png ... in place of --input_image_or_video_path; --view_prompts
                      where each view has a text; --rig rig.json for a video of each view
    trajectory        --trajectory left --trajectory_speed 8, or --trajectory_path FILE

Docs: docs/autoregressive_controls.md.
"""

from cosmos1.generation import autoregressive_command, autoregressive_options, command

if __name__ == "__main__":
    command.run_program(
        autoregressive_options.parser(__doc__),
        autoregressive_command.generate,
        autoregressive_options.take_official_options,
    )
