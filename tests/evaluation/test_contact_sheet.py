# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: the right frame in the right place, and labels beside it."""

import numpy
import pytest
from PIL import Image

from cosmos1.errors import ConfigError
from cosmos1.evaluation.contact_sheet import GAP, MARGIN, write_contact_sheet


def ramp(num_frames, channel, height=32, width=48):
    """Frames of one colour that grows brighter: 10, 20, 30, ... in one channel."""
    frames = numpy.zeros((num_frames, height, width, 3), "uint8")
    frames[..., channel] = 10 * numpy.arange(1, num_frames + 1)[:, None, None]
    return frames


def tiles(path, num_rows, num_columns, height=32, width=48):
    """The centre pixel of each tile, found by counting back from the lower right corner."""
    sheet = numpy.asarray(Image.open(path))
    bottom, right = (size - MARGIN for size in sheet.shape[:2])
    return [
        [
            tuple(
                sheet[
                    bottom - height // 2 - (num_rows - 1 - row) * (height + GAP),
                    right - width // 2 - (num_columns - 1 - column) * (width + GAP),
                ].tolist()
            )
            for column in range(num_columns)
        ]
        for row in range(num_rows)
    ]


def test_columns_are_the_same_moments_in_every_row(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    write_contact_sheet(path, {"real": ramp(20, 0), "after": ramp(9, 1)}, num_columns=3)
    assert tiles(path, 2, 3) == [[(10, 0, 0), (50, 0, 0), (90, 0, 0)], [(0, 10, 0), (0, 50, 0), (0, 90, 0)]]
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]


def test_labels_are_drawn_and_longer_ones_get_room(tmp_path):
    frames = ramp(2, 0)
    write_contact_sheet(tmp_path / "a.png", {"real": frames}, num_columns=2)
    write_contact_sheet(tmp_path / "b.png", {"before post-training": frames}, num_columns=2, title="Bridge")
    short, long = (numpy.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "b.png"))
    assert long.shape[1] > short.shape[1] + 50 and long.shape[0] > short.shape[0]
    for sheet in (short, long):
        label_area = sheet[-MARGIN - 32 : -MARGIN, : sheet.shape[1] - MARGIN - 2 * 48 - 2 * GAP]
        assert (label_area.sum(axis=2) < 300).sum() > 20


def test_large_frames_are_scaled_and_files_stay_small(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (121, 44, 80, 3), "uint8").repeat(8, 1).repeat(8, 2)
    write_contact_sheet(tmp_path / "sheet.png", {"real": noise, "before": noise, "after": noise})
    assert Image.open(tmp_path / "sheet.png").width < 1500
    assert (tmp_path / "sheet.png").stat().st_size < 1_500_000


def test_fewer_frames_than_columns(tmp_path):
    write_contact_sheet(tmp_path / "sheet.png", {"real": ramp(1, 2)}, num_columns=6)
    assert tiles(tmp_path / "sheet.png", 1, 1) == [[(0, 0, 10)]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "at least one row"),
        ({"real": ramp(2, 0).astype("float32")}, 'row "real" is float32'),
        ({"real": ramp(2, 0)[:0]}, "T at least 1"),
        ({"real": ramp(2, 0), "after": ramp(2, 0, height=16)}, "resize them to one size"),
    ],
)
def test_unusable_rows_are_refused(tmp_path, rows, message):
    with pytest.raises(ConfigError, match=message):
        write_contact_sheet(tmp_path / "sheet.png", rows)
    assert not list(tmp_path.iterdir())
