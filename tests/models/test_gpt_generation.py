# SPDX-License-Identifier: Apache-2.0
"""Token by token with a cache equals the whole sequence at once; and what the sampler may choose."""

import pytest
import torch

from cosmos1.errors import ConfigError
from cosmos1.models.autoregressive.generation import Decoding, generate_tokens
from cosmos1.models.autoregressive.sampling import SamplingSettings, choose_token
from tests.models.gpt_reference import build_network, golden_inputs, golden_weights, load, miniature, to_megatron

GREEDY = SamplingSettings(temperature=0.0)


@pytest.fixture(params=[False, True], ids=["base", "video2world"])
def setup(request):
    config = miniature(request.param, yarn=True)
    network = build_network(config)
    weights = to_megatron(golden_weights(config), config)
    # Attention must matter for the choice of a token, more than the token before it.
    for name, factor in (("linear_proj", 6), ("layernorm.weight", 1.5), ("word_embeddings", 0.1)):
        weights = {key: value * factor if name in key else value for key, value in weights.items()}
    load(network, weights)
    given = (7 * torch.arange(12) + 3)[None] % 64
    given = torch.cat([given, given.flip(1)])
    text = golden_inputs(config)[1]
    text = None if text is None else torch.cat([text, -text]).float()
    return config, network, given, text


def whole_sequence(config, network, given, text, num_new: int) -> torch.Tensor:
    """Greedy continuation by running all tokens through the network again for each new one."""
    tokens = given
    for _ in range(num_new):
        sequence = torch.full((len(tokens), config.sequence_length), 0)
        start = 1 if config.video2world else 0
        sequence[:, 0] = config.begin_of_video if config.video2world else 0
        sequence[:, start : start + tokens.shape[1]] = tokens
        with torch.no_grad():
            logits = network(sequence, text)
        tokens = torch.cat([tokens, logits[:, start + tokens.shape[1] - 1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@pytest.mark.parametrize("num_given", [12, 5])
def test_cached_decode_equals_full_recomputation(setup, num_given):
    config, network, given, text = setup
    found, rate = generate_tokens(network, given[:, :num_given], text, GREEDY)
    expected = whole_sequence(config, network, given[:, :num_given], text, 24 - num_given)
    assert found.shape == (2, 24) and rate > 0
    assert torch.equal(found, expected)
    assert len(expected.unique()) > 6


@torch.no_grad()
def test_logits_of_every_step_are_those_of_the_whole_sequence(setup):
    config, network, given, text = setup
    start = 1 if config.video2world else 0
    decoding = Decoding(network, torch.nn.functional.pad(given, (start, 0), value=64), text, GREEDY)
    logits = []
    network_logits = network.next_logits
    network.next_logits = lambda *arguments: logits.append(network_logits(*arguments)) or logits[-1]
    for _ in range(10):
        decoding.step()
    del network.next_logits
    whole = network(decoding.sequence_BS[:, : config.sequence_length], text)
    for number, step in enumerate(logits):
        torch.testing.assert_close(step, whole[:, start + 12 + number], rtol=1e-5, atol=1e-5)


def test_a_cache_that_forgets_is_seen(setup, monkeypatch):
    """Negative control: the comparison notices one key that is not kept."""
    config, network, given, text = setup
    expected = whole_sequence(config, network, given, text, 12)
    step = Decoding.step

    def forgetful(self):
        self.cache.keys[0, :, :, 3] = 0
        step(self)

    monkeypatch.setattr(Decoding, "step", forgetful)
    assert not torch.equal(generate_tokens(network, given, text, GREEDY)[0], expected)


def test_sampling_repeats_with_its_seed(setup):
    config, network, given, text = setup

    def sample(seed):
        return generate_tokens(network, given, text, SamplingSettings(top_p=0.9, seed=seed))[0]

    assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))
    assert torch.equal(sample(1)[:, :12], given)


def test_video2world_can_start_without_given_tokens(setup):
    config, network, given, text = setup
    if not config.video2world:
        with pytest.raises(ConfigError, match="0 tokens are given of a clip of 24"):
            generate_tokens(network, given[:, :0], text, GREEDY)
        return
    found = generate_tokens(network, given[:, :0], text, GREEDY)[0]
    assert torch.equal(found, whole_sequence(config, network, given[:, :0], text, 24))


@pytest.mark.parametrize(
    "given, message", [(torch.zeros(1, 24), "24 tokens are given"), (torch.full((1, 3), 64), "between 0 and 63")]
)
def test_given_tokens_that_are_refused(setup, given, message):
    _, network, _, text = setup
    with pytest.raises(ConfigError, match=message):
        generate_tokens(network, given.long(), None if text is None else text[:1], GREEDY)


# ---- sampling ----

LOGITS = torch.tensor([[0.1, 0.5, 0.05, 0.35]]).log()


def chosen(settings: SamplingSettings, num_draws: int = 400) -> dict[int, float]:
    """Share of each token over evenly spread quantiles."""
    quantiles = (torch.arange(num_draws) + 0.5) / num_draws
    tokens = torch.cat([choose_token(LOGITS, quantile[None], settings) for quantile in quantiles])
    return {token: (tokens == token).float().mean().item() for token in tokens.unique().tolist()}


@pytest.mark.parametrize(
    "settings, expected",
    [
        (SamplingSettings(top_p=None), {0: 0.1, 1: 0.5, 2: 0.05, 3: 0.35}),
        (SamplingSettings(top_p=1.0), {0: 0.1, 1: 0.5, 2: 0.05, 3: 0.35}),
        (SamplingSettings(top_p=0.8), {1: 0.5 / 0.85, 3: 0.35 / 0.85}),
        (SamplingSettings(top_p=0.6), {1: 0.5 / 0.85, 3: 0.35 / 0.85}),
        (SamplingSettings(top_p=0.49), {1: 1.0}),
        (SamplingSettings(top_p=None, top_k=3), {0: 0.1 / 0.95, 1: 0.5 / 0.95, 3: 0.35 / 0.95}),
        (SamplingSettings(top_p=None, top_k=1), {1: 1.0}),
        (SamplingSettings(temperature=0.0), {1: 1.0}),
        (SamplingSettings(top_p=None, temperature=0.5), {0: 0.01, 1: 0.25, 2: 0.0025, 3: 0.1225}),
    ],
)
def test_shares_of_tokens(settings, expected):
    total = sum(expected.values())
    assert chosen(settings) == pytest.approx({token: share / total for token, share in expected.items()}, abs=3e-3)


def test_the_largest_quantile_stays_within_what_is_kept():
    last = torch.tensor([1 - 2**-24])
    logits = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * 3
    for settings in (SamplingSettings(top_p=0.8), SamplingSettings(top_p=None, top_k=7)):
        token = choose_token(logits, last, settings)
        probability = logits.softmax(-1)
        larger = (probability * (probability > probability.gather(1, token[:, None]))).sum(1)
        rank = (probability > probability.gather(1, token[:, None])).sum(1)
        assert (rank < 7).all() if settings.top_k else (larger <= 0.8 + 1e-5).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        (SamplingSettings(top_p=0.9, top_k=5), "exclude each other"),
        (SamplingSettings(top_p=0.0), "top_p"),
        (SamplingSettings(top_p=None, top_k=65), "1 to 64"),
        (SamplingSettings(temperature=-1.0), "temperature"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        settings.validate(64)
