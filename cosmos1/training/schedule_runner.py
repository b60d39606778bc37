# SPDX-License-Identifier: Apache-2.0
"""Run micro batches through Megatron-core's pipeline schedules (which also serve a single stage)."""

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from cosmos1.parallel.device import device
from cosmos1.training.parallel_model import ParallelModel, unwrap


def run_micro_batches(model: ParallelModel, batches: list[dict], seed: int, training: bool) -> list[dict]:
    """Forward (and in training backward) of micro batches on this replica.

    Returns the metrics of each micro batch on the last pipeline stage, an empty list on others.
    """

    def forward_step(iterator, chunk):
        network = unwrap(chunk)
        sample = model.task.prepare(next(iterator), seed, device(), training)
        prediction = model.task.forward(chunk, sample)
        return prediction, lambda output: model.task.loss(network, sample, output)

    return _run_schedule(model, forward_step, batches, model.task.num_tokens(batches[0]), forward_only=not training)


def predict(model: ParallelModel, sample) -> torch.Tensor:
    """The network's prediction for one prepared sample, on every rank, whatever the number of pipeline stages."""
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    if pipeline.size() == 1:
        return model.task.forward(model.chunks[0], sample)

    def forward_step(iterator, chunk):
        prediction = model.task.forward(chunk, next(iterator))
        return prediction, lambda output: (output.sum(), {"prediction": output})

    num_tokens = model.task.config.num_tokens(*sample.network_input.shape[2:])
    results = _run_schedule(model, forward_step, [sample], num_tokens, forward_only=True)
    prediction = results[0]["prediction"] if results else torch.empty_like(sample.network_input)
    dist.broadcast(prediction, parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline)
    return prediction


def _run_schedule(model: ParallelModel, forward_step, items: list, num_tokens: int, forward_only: bool) -> list[dict]:
    """Send one item per micro batch through all stages; returns what the last stage made of each."""
    padded, interleaved = items, len(model.chunks) > 1
    if forward_only and interleaved:
        # The interleaved schedule takes micro batches in groups of one per stage: repeat some, drop their results.
        pipeline = model.strategy.pipeline_model_parallel_size
        padded = [items[index % len(items)] for index in range(-(-len(items) // pipeline) * pipeline)]
    results = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(padded) for _ in model.chunks] if interleaved else iter(padded),
        model=model.chunks if interleaved else model.chunks[0],
        num_microbatches=len(padded),
        seq_length=num_tokens,
        micro_batch_size=model.task.batch_size(items[0]),
        forward_only=forward_only,
    )
    return results[: len(items)]


class MetricSums:
    """Adds up the task's metrics on the device; only :meth:`reduce` waits for it and for the other ranks."""

    def __init__(self, model: ParallelModel):
        self.sums = torch.zeros(model.task.num_sums, dtype=torch.float64, device=device())

    def add(self, results: list[dict]) -> None:
        """Metrics of micro batches (none on pipeline stages before the last)."""
        for result in results:
            self.sums += result["sums"]

    def reduce(self) -> list[float]:
        """Sums since the last call over micro batches and replicas, the same on all ranks. Collective."""
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        if pipeline.size() > 1:
            dist.broadcast(self.sums, parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline)
        dist.all_reduce(self.sums, group=parallel_state.get_data_parallel_group())
        values = self.sums.tolist()
        self.sums.zero_()
        return values
