# SPDX-License-Identifier: Apache-2.0
"""Geometry, inverses, determinism and error messages of the tokenizers and text encoders."""

import pytest
import torch

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.cosmos_cv import from_autoencoder, load_cosmos_cv
from cosmos1.models.tokenizers.text import build_text_encoder
from cosmos1.models.tokenizers.video import build_video_tokenizer


@pytest.mark.parametrize("num_latent_frames", [1, 3])
def test_dct_decode_is_the_exact_inverse_on_latents(num_latent_frames):
    tokenizer = build_video_tokenizer("dct")
    latent = torch.randn(2, 16, num_latent_frames, 4, 6)
    video = tokenizer.decode(latent)
    assert video.shape == (2, 3, 8 * (num_latent_frames - 1) + 1, 32, 48)
    torch.testing.assert_close(tokenizer.encode(video), latent, atol=1e-5, rtol=1e-5)


def test_dct_decode_is_the_nearest_video():
    tokenizer = build_video_tokenizer("dct", dtype=torch.float64)
    video = torch.rand(1, 3, 9, 16, 16, dtype=torch.float64) * 2 - 1
    projected = tokenizer.decode(tokenizer.encode(video))
    # The error of an orthogonal projection is orthogonal to everything that can be represented.
    other = tokenizer.decode(torch.randn(1, 16, 2, 2, 2, dtype=torch.float64))
    assert abs(((video - projected) * other).sum()) < 1e-9


def test_dct_reproduces_smooth_moving_light():
    tokenizer = build_video_tokenizer("dct")
    x = torch.linspace(0, 6.28, 64)
    time = torch.linspace(0, 1, 17)[:, None, None]
    luma = 0.6 * torch.sin(x[None, None, :] / 2 + x[None, :32, None] / 3 + time)
    video = torch.stack([luma + 0.2, luma, luma - 0.2])[None]
    assert (tokenizer.decode(tokenizer.encode(video)) - video).abs().mean() < 0.01


def test_dct_is_causal():
    tokenizer = build_video_tokenizer("dct")
    video = torch.rand(1, 3, 25, 16, 16) * 2 - 1
    changed = video.clone()
    changed[:, :, 9:] = 0.0
    torch.testing.assert_close(tokenizer.encode(video)[:, :, :2], tokenizer.encode(changed)[:, :, :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dct_latents_have_the_dtype_asked_for(dtype):
    tokenizer = build_video_tokenizer("dct", dtype=dtype)
    latent = tokenizer.encode(torch.zeros(1, 3, 9, 16, 16))
    assert latent.dtype == dtype and tokenizer.decode(latent).dtype == dtype


@pytest.mark.parametrize(
    "shape, words",
    [
        ((1, 3, 10, 16, 16), "Use 9 or 17"),
        ((1, 3, 9, 20, 16), "20 x 16"),
        ((1, 1, 9, 16, 16), r"\(1, 1, 9, 16, 16\)"),
    ],
)
def test_wrong_video_shapes_are_named(shape, words):
    with pytest.raises(ConfigError, match=words):
        build_video_tokenizer("dct").encode(torch.zeros(shape))


def test_unknown_names_suggest_the_closest():
    with pytest.raises(ConfigError, match='did you mean "cosmos_cv8x8x8"'):
        build_video_tokenizer("cosmos_cv8x8")
    with pytest.raises(ConfigError, match='did you mean "hashed"'):
        build_text_encoder("hash")


class _Pool(torch.nn.Module):
    """A scripted stand-in with the tokenizer's geometry: averages each block, repeats over the channels."""

    def forward(self, video):
        first = torch.nn.functional.avg_pool3d(video[:, :, :1], [1, 8, 8])
        rest = torch.nn.functional.avg_pool3d(video[:, :, 1:], [8, 8, 8])
        pooled = torch.cat([first, rest], dim=2)
        return (pooled[:, :1].repeat(1, 16, 1, 1, 1),)


class _Expand(torch.nn.Module):
    def forward(self, latent):
        big = latent[:, :3].repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
        return torch.cat([big[:, :, :1], big[:, :, 1:].repeat_interleave(8, dim=2)], dim=2)


@pytest.fixture
def torchscript_folder(tmp_path):
    torch.jit.script(_Pool()).save(tmp_path / "encoder.jit")
    torch.jit.script(_Expand()).save(tmp_path / "decoder.jit")
    mean = torch.arange(48, dtype=torch.float32).reshape(16 * 3)
    torch.save((mean, torch.full((48,), 2.0)), tmp_path / "mean_std.pt")
    return tmp_path


def test_torchscript_latents_are_normalised_per_channel_and_position(torchscript_folder):
    tokenizer = load_cosmos_cv(str(torchscript_folder), num_frames=17, dtype=torch.float32)
    video = torch.full((1, 3, 9, 16, 16), 0.5)
    latent = tokenizer.encode(video)
    assert latent.shape == (1, 16, 2, 2, 2)
    # Statistics have 3 positions per channel: channel c, position p has mean 3 c + p and deviation 2.
    for channel, position in ((0, 0), (0, 1), (5, 1)):
        assert torch.allclose(latent[0, channel, position], torch.tensor((0.5 - 3 * channel - position) / 2))
    torch.testing.assert_close(tokenizer.decode(latent), video)


def test_chunks_longer_than_the_statistics_are_refused(torchscript_folder):
    with pytest.raises(ConfigError, match=r"4 latent frames.*cover 3 \(17 pixel frames\)"):
        load_cosmos_cv(str(torchscript_folder), num_frames=25)


def test_missing_tokenizer_files_are_named(torchscript_folder):
    (torchscript_folder / "decoder.jit").unlink()
    with pytest.raises(DataError, match=r"missing: decoder.jit.*hf download nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"):
        build_video_tokenizer("cosmos_cv8x8x8", str(torchscript_folder))


def test_damaged_tokenizer_file_is_a_data_error(torchscript_folder):
    (torchscript_folder / "encoder.jit").write_bytes(b"not a module")
    with pytest.raises(DataError, match="cannot be loaded"):
        build_video_tokenizer("cosmos_cv8x8x8", str(torchscript_folder))


def test_offline_without_cache_says_how_to_get_the_weights(tmp_path):
    # In another process, so that the hub library reads its environment anew.
    import os
    import subprocess
    import sys

    code = "from cosmos1.models.tokenizers.cosmos_cv import load_cosmos_cv; load_cosmos_cv(None)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "DataError" in result.stderr and "hf download" in result.stderr


@pytest.fixture(scope="module")
def autoencoder():
    from diffusers import AutoencoderKLCosmos

    torch.manual_seed(0)
    return AutoencoderKLCosmos(
        encoder_block_out_channels=(16, 16, 16, 16),
        decode_block_out_channels=(16, 16, 16, 16),
        attention_resolutions=(),
        resolution=64,
        num_layers=1,
    )


def test_diffusers_folder_equals_instance(autoencoder, tmp_path):
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    direct = from_autoencoder(autoencoder, dtype=torch.float32)
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = build_video_tokenizer("cosmos_cv8x8x8", str(tmp_path), dtype=torch.float32)
    latent = direct.encode(video)
    assert latent.shape == (1, 16, 2, 4, 4)
    torch.testing.assert_close(loaded.encode(video), latent)
    assert loaded.decode(latent).shape == video.shape
    mean = torch.tensor(autoencoder.config.latents_mean).reshape(16, 16)[:, :2]
    std = torch.tensor(autoencoder.config.latents_std).reshape(16, 16)[:, :2]
    raw = autoencoder.encode(video).latent_dist.mode()
    expected = (raw - mean[None, :, :, None, None]) / std[None, :, :, None, None]
    torch.testing.assert_close(latent, expected.detach())


def test_hashed_text_is_zero_after_its_end_and_has_the_scale_of_t5():
    embeddings, lengths = build_text_encoder("hashed").encode(["a red ball", "", "word " * 600])
    assert embeddings.shape == (3, 512, 1024) and lengths.tolist() == [4, 1, 512]
    assert embeddings[0, 4:].abs().max() == 0 and embeddings[2].abs().sum(dim=1).min() > 0
    assert 0.1 < embeddings[0, :4].pow(2).mean().sqrt() < 0.2


def test_hashed_text_tells_words_and_order_apart():
    encode = build_text_encoder("hashed").encode
    left, right, plural = (encode([text])[0][0] for text in ("ball left", "left ball", "balls left"))
    assert not torch.equal(left[0], right[1])
    similarity = torch.nn.functional.cosine_similarity
    # A plural is closer to its word than another word is.
    assert similarity(left[0], plural[0], dim=0) > similarity(left[0], left[1], dim=0) + 0.1


def test_hashed_text_is_the_same_on_every_machine():
    row = build_text_encoder("hashed").encode(["robot"])[0][0, 0]
    assert (row[:6] * 1000).round().tolist() == [-240.0, 133.0, 13.0, 294.0, 80.0, -187.0]


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "red", "ball"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    config = T5Config(vocab_size=8, d_model=1024, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


def test_t5_rows_after_the_end_are_zero_and_do_not_depend_on_neighbours(tiny_t5):
    encoder = build_text_encoder("t5", str(tiny_t5))
    embeddings, lengths = encoder.encode(["red ball", "ball"])
    assert embeddings.shape == (2, 512, 1024) and lengths.tolist() == [3, 2]
    assert embeddings[0, 3:].abs().max() == 0 and embeddings[0, :3].abs().sum(dim=1).min() > 0
    torch.testing.assert_close(encoder.encode(["ball"])[0][0], embeddings[1])
    assert build_text_encoder("t5", str(tiny_t5), dtype=torch.bfloat16).encode(["red"])[0].dtype == torch.bfloat16


def test_missing_t5_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="hf download google-t5/t5-11b"):
        build_text_encoder("t5", str(tmp_path))


def test_groups_of_four_frames():
    tokenizer = build_video_tokenizer("dct4x8x8", dtype=torch.float64)
    assert (tokenizer.name, tokenizer.temporal_factor) == ("dct4x8x8", 4)
    latent = torch.randn(1, 16, 4, 2, 3, dtype=torch.float64)
    video = tokenizer.decode(latent)
    assert video.shape == (1, 3, 13, 16, 24)
    torch.testing.assert_close(tokenizer.encode(video), latent)


def test_files_of_another_compression_are_refused(torchscript_folder):
    tokenizer = build_video_tokenizer("cosmos_cv4x8x8", str(torchscript_folder), num_frames=9, dtype=torch.float32)
    with pytest.raises(DataError, match="cosmos_cv4x8x8: 9 frames became 2 latent frames, 3 are needed.*CV4x8x8"):
        tokenizer.encode(torch.zeros(1, 3, 9, 16, 16))


def test_missing_statistics_of_cv4x8x8_can_be_measured(torchscript_folder):
    (torchscript_folder / "mean_std.pt").unlink()
    with pytest.raises(DataError, match=r"missing: mean_std.pt.*data_prep/latent_statistics.py"):
        build_video_tokenizer("cosmos_cv4x8x8", str(torchscript_folder))
