# SPDX-License-Identifier: Apache-2.0
"""Run micro batches through Megatron-core's pipeline schedules (which also serve a single stage)."""

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from cosmos1.parallel.device import device
from cosmos1.training.parallel_model import ParallelModel, unwrap


def run_micro_batches(model: ParallelModel, batches: list[dict], seed: int, training: bool) -> list[dict]:
    """Forward (and in training backward) of the micro batches of one step on this replica.

    Returns the metrics of each micro batch on the last pipeline stage, an empty list on others.
    """

    def forward_step(iterator, chunk):
        network = unwrap(chunk)
        sample = model.task.prepare(next(iterator), seed, device(), training)
        prediction = model.task.forward(chunk, sample)
        return prediction, lambda output: model.task.loss(network, sample, output)

    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(batches) for _ in model.chunks] if len(model.chunks) > 1 else iter(batches),
        model=model.chunks if len(model.chunks) > 1 else model.chunks[0],
        num_microbatches=len(batches),
        seq_length=model.task.num_tokens(batches[0]),
        micro_batch_size=len(batches[0]["sample_position"]),
        forward_only=not training,
    )


def predict(model: ParallelModel, sample) -> torch.Tensor:
    """The network's prediction for one prepared sample, on every rank, whatever the number of pipeline stages."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return model.task.forward(model.chunks[0], sample)
    outputs = []

    def forward_step(iterator, chunk):
        output = model.task.forward(chunk, sample)
        return output, lambda prediction: (prediction.sum(), outputs.append(prediction) or {})

    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[None] * len(model.chunks) if len(model.chunks) > 1 else None,
        model=model.chunks if len(model.chunks) > 1 else model.chunks[0],
        num_microbatches=1,
        seq_length=model.task.config.num_tokens(*sample.network_input.shape[2:]),
        micro_batch_size=len(sample.network_input),
        forward_only=True,
    )
    prediction = outputs[0] if outputs else torch.empty_like(sample.network_input)
    last = parallel_state.get_pipeline_model_parallel_last_rank()
    dist.broadcast(prediction, last, group=parallel_state.get_pipeline_model_parallel_group())
    return prediction


def summed_metrics(model: ParallelModel, results: list[dict]) -> list[float]:
    """Sums of the task's metrics over micro batches and replicas, the same on all ranks."""
    sums = torch.zeros(model.task.num_sums, dtype=torch.float64, device=device())
    for result in results:
        sums += result["sums"]
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    if pipeline.size() > 1:
        dist.broadcast(sums, parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline)
    dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    return sums.tolist()
