# SPDX-License-Identifier: Apache-2.0
"""Run by torchrun: load foreign weights under several parallel layouts, and save each as a checkpoint."""

import sys
from pathlib import Path

import torch

from cosmos1.checkpoint.formats import open_weights
from cosmos1.checkpoint.networks import family_of
from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import MegatronOptimizer, RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights

LAYOUTS = {
    "tp": MegatronStrategy(tensor_model_parallel_size=2, sequence_parallel=True),
    "pp": MegatronStrategy(pipeline_model_parallel_size=2),
    "dp": MegatronStrategy(),
    "fsdp": MegatronStrategy(fsdp=True),
}


def main(output: Path, sources: list[Path]) -> None:
    for name, strategy in LAYOUTS.items():
        process_groups.initialize(strategy)
        for source in sources:
            task = family_of(config := open_weights(source).config).build_task(config)
            model = ParallelModel(task, strategy, "fp32", seed=1)
            model.add_optimizer(MegatronOptimizer(), "fp32")
            load_weights(model, RestoreConfig(path=str(source)))
            if source.stem == "gpt" and name in ("tp", "dp"):
                _save_logits(model, output / f"logits_{name}.pt")
            writer = CheckpointWriter(output / source.stem / name)
            shards = model.weights_state()
            state = {f"{key}/{i}": part for key, parts in shards.items() for i, part in enumerate(parts)}
            writer.start("epoch=0-step=0", state, {"recipe.yaml": ""})
            writer.finish()
    process_groups.shutdown()


@torch.no_grad()
def _save_logits(model: ParallelModel, file: Path) -> None:
    config = model.task.config
    tokens = torch.arange(config.sequence_length)[None] % config.vocab_size
    text = torch.linspace(-1, 1, 5 * config.text_embedding_dim).view(1, 5, config.text_embedding_dim)
    with model.evaluating():
        logits = model.networks[0](tokens, text)
    if torch.distributed.get_rank() == 0:
        torch.save(logits, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
