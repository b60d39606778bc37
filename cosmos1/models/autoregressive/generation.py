# SPDX-License-Identifier: Apache-2.0
"""Generating the tokens of a clip: the prompt at once, then token by token with a cache of keys and values.

On a GPU the step from one token to the next is captured once as a CUDA graph and replayed, because its kernels are too
short to be launched one by one. Shapes: B batch, P prompt tokens, S positions of the sequence.
"""

import time
from typing import Callable

import torch
import torch.distributed as dist

from cosmos1.errors import ConfigError
from cosmos1.models.autoregressive.cache import KeyValueCache
from cosmos1.models.autoregressive.network import GPT
from cosmos1.models.autoregressive.sampling import SamplingSettings, choose_token
from cosmos1.parallel.device import is_cuda, synchronize
from cosmos1.parallel.randomness import named_generator

STEPS_BETWEEN_REPORTS = 64
WARM_UP_STEPS = 2


class Decoding:
    """One clip (or a batch of them) in the making; every tensor keeps its place in memory."""

    def __init__(
        self,
        network: GPT,
        prompt_BP: torch.Tensor,
        text_BME: torch.Tensor | None,
        settings: SamplingSettings,
        controls: dict[str, torch.Tensor] | None = None,
    ):
        gpt, place = network.config.gpt, prompt_BP.device
        batch, length = prompt_BP.shape
        self.network, self.settings = network, settings
        tp_size, dtype = network.tp_group.size(), network.config.pipeline_dtype
        self.cache = KeyValueCache(gpt, batch, tp_size, dtype, place)
        self.sequence_BS = torch.zeros(batch, gpt.sequence_length + 1, dtype=torch.int64, device=place)
        prompt_BP = self._agreed(prompt_BP.contiguous())
        self.sequence_BS[:, :length] = prompt_BP
        self.token_B1 = torch.zeros(batch, 1, dtype=torch.int64, device=place)
        # Drawn ahead on the CPU: the same numbers on every device and rank, for every clip of the batch.
        draws = torch.rand(gpt.sequence_length + 1, generator=named_generator(settings.seed, "tokens"))
        self.uniform_S = draws.to(place)
        self._append(network.next_logits(prompt_BP, self.cache, text_BME, controls), length)

    def step(self) -> None:
        """Read the newest token and append the one after it."""
        self._append(self.network.next_logits(self.token_B1, self.cache), 1)

    def _append(self, logits_BV: torch.Tensor, num_read: int) -> None:
        self.cache.position += num_read
        chosen = choose_token(logits_BV, self.uniform_S.index_select(0, self.cache.position), self.settings)
        self.token_B1.copy_(self._agreed(chosen)[:, None])
        self.sequence_BS.index_copy_(1, self.cache.position, self.token_B1)

    def _agreed(self, tokens: torch.Tensor) -> torch.Tensor:
        """``tokens`` as the first rank has them. Sums on a GPU are not the same to the last bit every time, neither of this
        network nor of the tokenizer, and ranks that share an embedding must look up the same rows."""
        group = self.network.tp_group
        if group.size() > 1:
            tokens = tokens.clone()
            dist.broadcast(tokens, dist.get_global_rank(group, 0), group=group)
        return tokens


def _captured(decoding: Decoding) -> Callable[[], None]:
    """The step as a CUDA graph; what the warm-up has appended is taken back."""
    position, token = decoding.cache.position.clone(), decoding.token_B1.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            decoding.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # NCCL's own thread asks for events meanwhile; it is no part of the graph.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        decoding.step()
    decoding.cache.position.copy_(position)
    decoding.token_B1.copy_(token)
    return graph.replay


@torch.no_grad()
def generate_tokens(
    network: GPT,
    given_BP: torch.Tensor,
    text_BME: torch.Tensor | None,
    settings: SamplingSettings,
    cuda_graph: bool = True,
    progress: Callable[[int, int], None] | None = None,
    controls: dict[str, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, float]:
    """Continue the video tokens ``given`` to a whole clip: ``([B, T * H * W], tokens per second after the prompt)``.

    Every tensor-parallel rank calls it and gets the same tokens. Video2World needs the text ``[B, M, E]`` (unless actions
    take its place) and puts the token that begins a video in front by itself; other networks need at least one given
    token. ``controls`` are the signals of the whole clip, by batch key.

    Raises:
        ConfigError: the given tokens fill the clip or are none, or are no codes.
    """
    gpt = network.config.gpt
    settings.validate(gpt.vocab_size)
    _check_given(given_BP, gpt.num_video_tokens, gpt.vocab_size, may_be_empty=gpt.video2world)
    first = 1 if gpt.video2world else 0
    prompt = torch.nn.functional.pad(given_BP, (first, 0), value=gpt.begin_of_video)
    decoding = Decoding(network, prompt, text_BME, settings, controls)
    num_steps = gpt.num_video_tokens - given_BP.shape[1] - 1
    use_graph = cuda_graph and is_cuda() and num_steps > WARM_UP_STEPS
    step = _captured(decoding) if use_graph else decoding.step
    synchronize()
    started = time.perf_counter()
    for done in range(1, num_steps + 1):
        step()
        if progress is not None and (done % STEPS_BETWEEN_REPORTS == 0 or done == num_steps):
            synchronize()
            progress(done, num_steps)
    synchronize()
    rate = given_BP.shape[0] * num_steps / max(time.perf_counter() - started, 1e-9)
    return decoding.sequence_BS[:, first : first + gpt.num_video_tokens], rate


def _check_given(given_BP: torch.Tensor, num_video_tokens: int, vocab_size: int, may_be_empty: bool) -> None:
    count = given_BP.shape[1]
    if count >= num_video_tokens or (count == 0 and not may_be_empty):
        raise ConfigError(
            f"{count} tokens are given of a clip of {num_video_tokens}; give at least one latent frame and fewer than all "
            "(--num_input_frames)"
        )
    if count and not (int(given_BP.min()) >= 0 and int(given_BP.max()) < vocab_size):
        raise ConfigError(
            f"the given tokens lie between {int(given_BP.min())} and {int(given_BP.max())}, the codes of this network between "
            f"0 and {vocab_size - 1}; use the tokenizer that it was trained with"
        )
