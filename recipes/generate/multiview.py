# SPDX-License-Identifier: Apache-2.0
"""The videos of all cameras of a vehicle at once: from text, from pictures, along a trajectory.

    torchrun --nproc_per_node=8 recipes/generate/multiview.py --checkpoint RUN_FOLDER --cp_size 8 --rig six_cameras \
        --prompt "The car turns left in a town." --video_save_path generated/town.mp4

Networks of the image2world recipes also take ``--conditioned_images``, those of the w_traj recipes ``--trajectory_path``
or ``--trajectory``. Docs: docs/multiview.md.
"""

from cosmos1.generation import command, multiview

if __name__ == "__main__":
    command.run_program(multiview.parser(__doc__), multiview.generate)
