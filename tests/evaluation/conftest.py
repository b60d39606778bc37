# SPDX-License-Identifier: Apache-2.0
"""Generated videos: a moving pattern that survives compression well."""

import numpy
import pytest

from cosmos1.data.video import write_video


@pytest.fixture
def moving_waves():
    """Make frames (T, H, W, 3) uint8 of smooth waves, values 60 to 160; other seeds have other waves."""

    def make(num_frames=9, height=32, width=48, seed=0):
        rng = numpy.random.RandomState(seed)
        t, y, x = numpy.meshgrid(*(numpy.arange(n) for n in (num_frames, height, width)), indexing="ij")
        frames = numpy.empty((num_frames, height, width, 3))
        for channel in range(3):
            speed, down, across = rng.uniform(0.1, 0.3, 3)
            frames[..., channel] = 110 + 50 * numpy.sin(speed * t + down * y + across * x + rng.uniform(0, 6))
        return frames.round().astype("uint8")

    return make


@pytest.fixture
def folders(tmp_path, moving_waves):
    """Two folders with a.mp4, b.mp4 and c.mp4; the generated ones are brighter by 4, 8 and 16 grey levels."""
    for index, name in enumerate("abc"):
        frames = moving_waves(seed=index)
        write_video(tmp_path / "reference" / f"{name}.mp4", frames, 24)
        write_video(tmp_path / "generated" / f"{name}.mp4", frames + numpy.uint8(4 * 2**index), 24)
    return tmp_path
