# SPDX-License-Identifier: Apache-2.0
"""Build the network of every factory at full size on the meta device (no memory) and print its number of parameters.

python benchmarks/parameter_counts.py
"""

import importlib.util
import inspect
from pathlib import Path

import fiddle as fdl
import torch

from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy

RECIPES = Path(__file__).parents[1] / "recipes"


def factories():
    """``(name, factory)`` of every recipe file."""
    for path in sorted(RECIPES.glob("*/*.py")):
        if path.parent.name == "generate":
            continue
        spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == module.__name__
            if is_own and not inspect.signature(value).parameters:
                yield name, value


def num_parameters(model) -> int:
    """Parameters of a recipe's whole network; the uncertainty head, which serves one option of the loss, is left out."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    from cosmos1.models.autoregressive.model import AutoregressiveModel
    from cosmos1.models.autoregressive.network import GPT
    from cosmos1.models.diffusion.network import DiT

    network_class = GPT if isinstance(model, AutoregressiveModel) else DiT
    meta = torch.device("meta")
    with meta:
        config = model.megatron_config(MegatronStrategy(), torch.bfloat16, meta)
        network = network_class(config, ProcessGroupCollection.use_mpu_process_groups())
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("logvar."))


def main() -> None:
    process_groups.initialize(MegatronStrategy())
    print("| factory | parameters |\n|---|---|")
    for name, factory in factories():
        print(f"| `{name}` | {num_parameters(fdl.build(factory()).keywords['model']):,} |", flush=True)
    process_groups.shutdown()


if __name__ == "__main__":
    main()
