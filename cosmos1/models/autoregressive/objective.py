# SPDX-License-Identifier: Apache-2.0
"""From a collated batch of tokens to the loss, and the numbers that training reports.

Shapes: B micro batch, S positions of the sequence, M text rows, E their width.
"""

import math
from dataclasses import dataclass, field

import torch

from cosmos1.conditioning.token_controls import take_token_controls
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.network import TokenScores
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.parallel.randomness import SampleRandomness

NUM_SUMS = 4


@dataclass
class TokenSample:
    """A micro batch on the device."""

    tokens: torch.Tensor
    labels: torch.Tensor
    """``[B, S]`` int64: what the network reads, and what it is to say at each position."""
    loss_mask: torch.Tensor
    """``[B, S]`` fp32: 1 where the label counts."""
    text: torch.Tensor | None
    """``[B, M, E]``, where the network reads text."""
    controls: dict[str, torch.Tensor] = field(default_factory=dict)
    """Control signals by batch key."""


def make_token_sample(
    config: GPTConfig,
    objective: NextTokenObjective,
    batch: dict,
    seed: int,
    device: torch.device,
    training: bool = True,
) -> TokenSample:
    """Bring a batch to the device, with tokens corrupted, signals dropped and the first frames left out as ``objective``
    says."""
    loss_mask = batch["loss_mask"].to(device, torch.float32)
    if "counted" in batch:
        loss_mask = loss_mask * batch["counted"].to(device)[:, None]
    _, rows, columns = config.latent_shape
    num_given = objective.num_unscored_frames * config.num_views * rows * columns
    if num_given:
        # Video2World reads one token more before the first that it says.
        first = num_given - (0 if config.video2world else 1)
        loss_mask = loss_mask * (torch.arange(loss_mask.shape[1], device=device) >= first)
    signals = take_token_controls(config, batch, device)
    if config.reads_text:
        signals["text"] = batch["t5_text_embeddings"].to(device)
    tokens = batch["tokens"].to(device)
    if training:
        random = SampleRandomness(seed, batch["sample_position"])
        _drop_signals(objective, signals, random)
        if objective.token_corruption:
            tokens = _corrupted(config, objective.token_corruption, tokens, num_given, random)
    text = signals.pop("text", None)
    return TokenSample(tokens, batch["labels"].to(device), loss_mask, text, signals)


def _drop_signals(objective: NextTokenObjective, signals: dict[str, torch.Tensor], random: SampleRandomness) -> None:
    """Replace signals of whole samples by zeros."""
    dropout = {"text": objective.text_dropout, "plucker_tokens": objective.camera_dropout}
    dropout["trajectory"] = objective.trajectory_dropout
    for name, probability in dropout.items():
        if probability > 0 and name in signals:
            signal = signals[name]
            keep = (random.uniform(f"{name}_dropout") >= probability).to(signal.device, signal.dtype)
            signals[name] = signal * keep.view(-1, *[1] * (signal.ndim - 1))


def _corrupted(
    config: GPTConfig, mean_share: float, tokens_BS: torch.Tensor, num_given: int, random: SampleRandomness
) -> torch.Tensor:
    """Some video tokens after the first ``num_given`` replaced by others of the same sample; not what begins the video, nor
    padding."""
    first = 1 if config.video2world else 0
    video = slice(first, first + config.num_video_tokens)
    video_Bn = tokens_BS[:, video]
    num_tokens = video_Bn.shape[1]
    share_B = 2 * mean_share * random.uniform("token_corruption")
    wrong_Bn = random.uniform("corrupted_tokens", num_tokens) < share_B[:, None]
    wrong_Bn[:, :num_given] = False
    place_Bn = (random.uniform("corrupting_tokens", num_tokens) * num_tokens).long()
    others_Bn = video_Bn.gather(1, place_Bn.to(tokens_BS.device))
    tokens_BS = tokens_BS.clone()
    tokens_BS[:, video] = torch.where(wrong_Bn.to(tokens_BS.device), others_Bn, video_Bn)
    return tokens_BS


def next_token_loss(sample: TokenSample, scores: TokenScores) -> torch.Tensor:
    """Cross entropy ``[B]``: mean over the scored tokens of each sample, 0 for a sample without any."""
    return (scores.loss_BS * sample.loss_mask).sum(1) / sample.loss_mask.sum(1).clamp(min=1)


def metric_sums(loss_B: torch.Tensor, sample: TokenSample, scores: TokenScores) -> torch.Tensor:
    """What training adds up, ``[4]`` fp64: loss over samples, samples, tokens said right, tokens scored."""
    mask = sample.loss_mask.double()
    sums = [loss_B.detach().double().sum(), (mask.sum(1) > 0).sum(), (scores.correct_BS * mask).sum(), mask.sum()]
    return torch.stack([value.double() for value in sums])


def summarize(sums: list[float]) -> dict[str, float]:
    """``loss`` (nats per token), ``perplexity`` and ``token_accuracy``; nothing where nothing was scored."""
    loss_sum, num_samples, num_correct, num_tokens = sums
    if not num_tokens:
        return {}
    loss = loss_sum / num_samples
    # Beyond this a perplexity says nothing, and a diverged run must still be able to report.
    perplexity = math.exp(min(loss, 100.0)) if math.isfinite(loss) else loss
    return {"loss": loss, "perplexity": perplexity, "token_accuracy": num_correct / num_tokens}
