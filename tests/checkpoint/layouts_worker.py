# SPDX-License-Identifier: Apache-2.0
"""Run by torchrun: load foreign weights under several parallel layouts, and save each as a checkpoint."""

import sys
from pathlib import Path

from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.generation.generator import network_of_checkpoint
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


def main(source: Path, output: Path) -> None:
    for name, strategy in LAYOUTS.items():
        process_groups.initialize(strategy)
        model = ParallelModel(network_of_checkpoint(source), strategy, "fp32", seed=1)
        model.add_optimizer(MegatronOptimizer(), "fp32")
        load_weights(model, RestoreConfig(path=str(source)))
        writer = CheckpointWriter(output / name)
        shards = model.weights_state()
        state = {f"{key}/{i}": part for key, parts in shards.items() for i, part in enumerate(parts)}
        writer.start("epoch=0-step=0", state, {"recipe.yaml": ""})
        writer.finish()
    process_groups.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
