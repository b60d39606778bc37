# SPDX-License-Identifier: Apache-2.0
"""Sampling with the network: against diffusers' pipeline, and the rules of given frames."""

import pytest
import torch

from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, Predictor, Prompt, generate_latent
from tests.models.reference import build_network, golden_weights, load_official, stream, tensor, tiny_config
from tests.models.test_network import diffusers_network

SHAPE = [16, 2, 8, 12]


class NoSafetyChecker:
    """The pipeline insists on one; this one is never asked, as no prompt and no pixels pass through."""

    def to(self, device):
        return self


def predictor(network, condition_mask=False):
    def predict(sample):
        c_in, c_noise = sample.coefficients.c_in, sample.coefficients.c_noise
        inputs = (
            sample.network_input * c_in,
            c_noise,
            sample.text,
            sample.fps,
            sample.padding_mask,
            sample.condition_mask,
        )
        return network(*inputs)

    return Predictor(predict, sigma_data=0.5, condition_mask=condition_mask)


def test_equals_the_text2world_pipeline_of_diffusers():
    from diffusers import AutoencoderKLCosmos, CosmosTextToWorldPipeline, EDMEulerScheduler

    config = tiny_config()
    weights = golden_weights(config)
    network = build_network(config)
    load_official(network, config, weights)
    text, negative = (tensor(2 * stream(index, (1, 20, 1024))) for index in (901, 902))
    settings = GenerationSettings(num_steps=8, guidance=7.0, sampler="euler_diffusers", seed=5)
    ours = generate_latent(predictor(network), SHAPE, Prompt(text, 30.0, negative), settings)

    vae = AutoencoderKLCosmos(
        encoder_block_out_channels=(8, 8), decode_block_out_channels=(8, 8), num_layers=1, latent_channels=16
    )
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip
    pipeline = CosmosTextToWorldPipeline(
        text_encoder=None, tokenizer=None, transformer=diffusers_network(config, weights), vae=vae,
        scheduler=scheduler, safety_checker=NoSafetyChecker(),
    )  # fmt: skip
    from cosmos1.models.diffusion.samplers import initial_noise

    theirs = pipeline(
        prompt_embeds=text, negative_prompt_embeds=negative, height=64, width=96, num_frames=9, fps=30,
        num_inference_steps=8, guidance_scale=7.0, latents=initial_noise((1, *SHAPE), 5), output_type="latent",
    ).frames  # fmt: skip
    assert ours.shape == (1, *SHAPE)
    # The pipeline returns latents times sigma_data.
    assert (ours * 0.5 - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("sampler", ["res", "euler", "euler_diffusers"])
def test_an_ideal_denoiser_returns_the_clean_latent(sampler):
    clean = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.5

    def predict(sample):
        c = sample.coefficients
        return (clean - c.c_skip * sample.network_input) / c.c_out

    settings = GenerationSettings(num_steps=12, guidance=3.0, sampler=sampler, seed=1)
    latent = generate_latent(Predictor(predict, 0.5), SHAPE, Prompt(torch.zeros(1, 4, 8), 24.0), settings)
    tolerance = 0.01 if sampler == "euler_diffusers" else 1e-4  # it stops at sigma 0.002
    assert (latent * 0.5 - clean).abs().max() < tolerance


@pytest.mark.parametrize("sampler", ["res", "euler"])
def test_given_frames_come_out_as_they_went_in(sampler):
    given = GivenFrames(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.5, count=1)
    network = build_network(tiny_config(condition_mask=True))
    settings = GenerationSettings(num_steps=6, guidance=7.0, sampler=sampler, seed=1)

    def generated(start):
        prompt = Prompt(tensor(2 * stream(901, (1, 20, 1024))), 24.0, given=start)
        return generate_latent(predictor(network, condition_mask=True), SHAPE, prompt, settings)

    latent = generated(given)
    different = generated(GivenFrames(given.latent.roll(1, dims=1), count=1))
    assert (latent[:, :, :1] * 0.5 - given.latent[:, :, :1]).abs().max() < 0.01
    # The generated frame depends on the given one.
    assert (latent[:, :, 1:] - different[:, :, 1:]).abs().max() > 1e-3


def test_the_same_seed_gives_the_same_latent_and_another_seed_another():
    network = build_network(tiny_config())
    text = tensor(2 * stream(901, (1, 20, 1024)))

    def sample(seed):
        settings = GenerationSettings(num_steps=3, guidance=1.0, seed=seed)
        return generate_latent(predictor(network), SHAPE, Prompt(text, 24.0), settings)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
