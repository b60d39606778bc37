# SPDX-License-Identifier: Apache-2.0
"""Codes, geometry, causality and error messages of the discrete video tokenizers."""

import math

import numpy as np
import pytest
import torch

from cosmos1.data.demo_worlds.rendering import Renderer
from cosmos1.data.video import frames_to_tensor
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers import fsq
from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer
from cosmos1.models.tokenizers.token_grid import latent_grid, parse_compression
from data_prep.demo_world import render_clip, sample_clip

ALL_IDS = torch.arange(64000)


def test_every_id_survives_digits_and_codes_in_bfloat16():
    digits = fsq.ids_to_digits(ALL_IDS)
    expected = np.stack(np.unravel_index(ALL_IDS.numpy(), fsq.LEVELS, order="F"), axis=-1)
    assert np.array_equal(digits.numpy(), expected)
    half = torch.tensor([4, 4, 4, 2, 2, 2])
    codes = ((digits - half) / half).bfloat16()
    assert torch.equal(fsq.digits_to_ids(fsq.codes_to_digits(codes)), ALL_IDS)


def test_the_published_example():
    digits = fsq.ids_to_digits(torch.tensor(12345))
    assert digits.tolist() == [1, 7, 0, 4, 4, 0]
    codes = torch.tensor([-0.75, 0.75, -1.0, 1.0, 1.0, -1.0])
    assert fsq.codes_to_digits(codes).tolist() == digits.tolist() and int(fsq.digits_to_ids(digits)) == 12345


def test_quantization_is_that_of_the_formula():
    values = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None].expand(-1, 6)
    found = fsq.quantize(values)
    for channel, levels in enumerate((8, 8, 8, 5, 5, 5)):
        half, offset = (levels - 1) * 1.001 / 2, 0.5 if levels % 2 == 0 else 0.0
        bounded = [math.tanh(z + math.atanh(offset / half)) * half - offset for z in values[:, 0].tolist()]
        expected = [round(value) / (levels // 2) for value in bounded]
        assert found[:, channel].tolist() == expected
        assert len(set(expected)) == levels


@pytest.mark.parametrize("compression", [(8, 16, 16), (4, 8, 8), (1, 8, 16)])
def test_dct_fsq_gives_back_any_ids(compression):
    tokenizer = build_discrete_tokenizer("dct_fsq", compression)
    groups = torch.randint(64000, (2, 3, 10, 12), generator=torch.Generator().manual_seed(0))
    for ids in (ALL_IDS.reshape(40, 1, 40, 40), groups):
        video = tokenizer.decode(ids)
        grid = [1 + (ids.shape[1] - 1) * compression[0], ids.shape[2] * compression[1], ids.shape[3] * compression[2]]
        assert list(video.shape) == [len(ids), 3, *grid]
        assert torch.equal(tokenizer.encode(video), ids)


def demo_clip(num_frames):
    frames = render_clip(sample_clip(0, 0), Renderer(96, 128), num_frames, fps=24)
    return frames_to_tensor(frames)


def test_dct_fsq_is_causal_both_ways():
    tokenizer = build_discrete_tokenizer("dct_fsq", (4, 8, 8))
    video = demo_clip(13)
    ids = tokenizer.encode(video)
    assert ids.dtype == torch.int64 and ids.shape == (1, 4, 12, 16)
    whole = tokenizer.decode(ids)
    for num_tokens, num_frames in ((1, 1), (2, 5), (3, 9)):
        assert torch.equal(tokenizer.encode(video[:, :, :num_frames]), ids[:, :num_tokens])
        assert torch.equal(tokenizer.decode(ids[:, :num_tokens]), whole[:, :, :num_frames])
    changed = video.clone()
    changed[:, :, 9:] = 0
    assert not torch.equal(tokenizer.encode(changed)[:, 3], ids[:, 3])


@pytest.mark.parametrize("compression, least", [((8, 16, 16), 22.0), ((4, 8, 8), 24.5)])
def test_dct_fsq_shows_the_demo_world(compression, least):
    tokenizer = build_discrete_tokenizer("dct_fsq", compression)
    video = demo_clip(17)
    decoded = tokenizer.decode(tokenizer.encode(video)).clamp(-1, 1)
    assert 10 * math.log10(4 / (decoded - video).square().mean()) > least


@pytest.mark.parametrize(
    "clip, compression, grid",
    [
        ((33, 640, 1024), "8,16,16", [5, 40, 64]),
        ((33, 384, 640), "8,16,16", [5, 24, 40]),
        ((1, 480, 640), "8,16,16", [1, 30, 40]),
        ((17, 320, 512), " 4, 8,8", [5, 40, 64]),
    ],
)
def test_grids_of_published_shapes(clip, compression, grid):
    assert latent_grid(*clip, parse_compression(compression)) == grid


@pytest.mark.parametrize(
    "clip, words",
    [((32, 64, 64), "Use 25 or 33"), ((33, 650, 64), "height 650 .* Use 640 or 656"), ((33, 64, 8), "Use 16 or 32")],
)
def test_clips_that_do_not_fit_get_the_nearest_that_do(clip, words):
    with pytest.raises(ConfigError, match=words):
        latent_grid(*clip, (8, 16, 16))


@pytest.mark.parametrize("text", ["8,16", "8,16,x", "0,8,8", "8x16x16"])
def test_compression_factors_of_another_form(text):
    with pytest.raises(ConfigError, match="8,16,16 or 4,8,8"):
        parse_compression(text)


def test_ids_out_of_range_and_other_mistakes_are_named():
    tokenizer = build_discrete_tokenizer("dct_fsq")
    with pytest.raises(DataError, match=r"1 of 4 token ids are outside 0..63999 .*largest 64000"):
        tokenizer.decode(torch.tensor([0, 5, 63999, 64000]).reshape(1, 1, 2, 2))
    with pytest.raises(ConfigError, match="tokenizer dct_fsq: 10 frames"):
        tokenizer.encode(torch.zeros(1, 3, 10, 16, 16))
    with pytest.raises(ConfigError, match='did you mean "cosmos_dv"'):
        build_discrete_tokenizer("cosmos_dv8x16x16")


class _Encoder(torch.nn.Module):
    """A stand-in with the call signature of DV4x8x8: the id is the mean grey of the first frame of the cell."""

    def forward(self, video):
        first = torch.nn.functional.avg_pool3d(video[:, :, :1].float(), [1, 8, 8])
        rest = torch.nn.functional.avg_pool3d(video[:, :, 1:].float(), [4, 8, 8])
        grey = torch.cat([first, rest], dim=2).mean(dim=1)
        ids = ((grey + 1) * 100).round().int()
        return ids, torch.zeros_like(video), torch.zeros(1)


class _Decoder(torch.nn.Module):
    def forward(self, ids):
        grey = (ids.float() / 100 - 1)[:, None].repeat(1, 3, 1, 1, 1)
        big = grey.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
        return torch.cat([big[:, :, :1], big[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dv")
    torch.jit.script(_Encoder()).save(folder / "encoder.jit")
    torch.jit.script(_Decoder()).save(folder / "decoder.jit")
    return folder


def test_torchscript_pair_gives_ids_and_pictures(folder):
    tokenizer = build_discrete_tokenizer("cosmos_dv", (4, 8, 8), str(folder), str(folder / "decoder.jit"))
    # More clips than one call takes.
    video = (torch.arange(11.0)[:, None, None, None, None] / 20 - 0.25).expand(11, 3, 9, 16, 24)
    ids = tokenizer.encode(video)
    assert ids.shape == (11, 3, 2, 3) and ids.dtype == torch.int64
    assert torch.equal(ids[9:10], tokenizer.encode(video[9:10]))
    decoded = tokenizer.decode(ids)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, video, atol=0.01, rtol=0)


def test_files_of_another_compression_are_refused(folder):
    tokenizer = build_discrete_tokenizer("cosmos_dv", (8, 16, 16), str(folder), str(folder))
    with pytest.raises(
        DataError, match=r"encoder.jit gives ids \(3, 2, 2\), the compression factor 8,16,16 gives \(2,"
    ):
        tokenizer.encode(torch.zeros(1, 3, 9, 16, 16))
    with pytest.raises(DataError, match="decoder.jit gives a video"):
        tokenizer.decode(torch.zeros(1, 2, 1, 1, dtype=torch.int64))


def test_half_a_tokenizer_does_half_of_the_work(folder):
    tokenizer = build_discrete_tokenizer("cosmos_dv", (4, 8, 8), encoder_path=str(folder))
    assert tokenizer.encode(torch.zeros(1, 3, 5, 8, 8)).tolist() == [[[[100]], [[100]]]]
    with pytest.raises(ConfigError, match="Give decoder_path"):
        tokenizer.decode(torch.zeros(1, 1, 1, 1, dtype=torch.int64))


def test_ids_of_an_encoder_are_checked(folder):
    tokenizer = build_discrete_tokenizer("cosmos_dv", (4, 8, 8), encoder_path=str(folder))
    with pytest.raises(DataError, match="encoder.jit: 2 of 2 token ids are outside"):
        tokenizer.encode(torch.full((1, 3, 5, 8, 8), 900.0))


def test_missing_and_damaged_files_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no file .*encoder.jit.*hf download nvidia/Cosmos-1.0-Tokenizer-DV8x16x16"):
        build_discrete_tokenizer("cosmos_dv", encoder_path=str(tmp_path))
    (tmp_path / "encoder.jit").write_bytes(b"not a module")
    with pytest.raises(DataError, match="cannot be loaded"):
        build_discrete_tokenizer("cosmos_dv", encoder_path=str(tmp_path))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither in the cache .*use the weight-free tokenizer: dct_fsq"):
        build_discrete_tokenizer("cosmos_dv", (4, 8, 8), "nvidia/Cosmos-0.1-Tokenizer-DV4x8x8")
