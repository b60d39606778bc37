# SPDX-License-Identifier: Apache-2.0
"""``python -m cosmos1.checkpoint convert SRC DST --to FORMAT`` and ``... inspect SRC``."""

import argparse
import sys
from pathlib import Path

from cosmos1.errors import CheckpointError, UserError

_SIZES = ("7b", "14b", "4b", "12b", "5b", "13b", "tiny")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m cosmos1.checkpoint", description="Weights in and out.")
    commands = p.add_subparsers(required=True, metavar="{convert,inspect}")
    c = commands.add_parser("convert", help="write weights in another format, tensor by tensor")
    c.add_argument("source", type=Path, help="model.pt, safetensors, NeMo checkpoint, or checkpoint or run folder")
    c.add_argument("destination", type=Path, help="new file (.pt) or folder")
    c.add_argument("--to", choices=("dist", "pt", "diffusers", "nemo"), required=True)
    c.add_argument("--dtype", choices=("keep", "bf16", "fp32"), default="keep")
    c.add_argument("--ema", type=int, help="convert this EMA copy instead of the trained weights")
    c.add_argument("--rope_scale", type=float, nargs=3, metavar=("T", "H", "W"), help="diffusion, no known size")
    c.add_argument("--latent_shape", type=int, nargs=3, metavar=("T", "H", "W"), help="autoregressive, no known size")
    c.add_argument("--yarn_scale", type=float, help="autoregressive, no known size")
    c.set_defaults(run=_convert)
    i = commands.add_parser("inspect", help="say what a file or folder holds, and compare it with a network")
    i.add_argument("source", type=Path)
    i.add_argument("--model", choices=_SIZES, help="the network to compare with")
    i.add_argument("--video2world", action="store_true", help="compare with the Video2World network of that size")
    i.add_argument("--ema", type=int, help="look at this EMA copy")
    i.set_defaults(run=_inspect)
    return p


def _convert(options: argparse.Namespace) -> int:
    from cosmos1.checkpoint.convert import ConvertOptions, convert

    settings = ConvertOptions(options.dtype, options.ema, options.rope_scale, options.latent_shape, options.yarn_scale)
    for path in convert(options.source, options.destination, options.to, settings):
        print(f"written: {path}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    """Status 1 if the weights do not fit the network."""
    from cosmos1.checkpoint import networks
    from cosmos1.checkpoint.formats import open_weights

    weights = open_weights(options.source, options.ema)
    print("\n".join(weights.describe()))
    config = _named_network(weights.config, options) if options.model else weights.config
    problems = networks.differences({name: tensor.shape for name, tensor in weights.tensors.items()}, config)
    print(f"compared with {networks.describe(config)}: {len(problems) or 'no'} differences")
    for line in problems:
        print(f"  {line}")
    return 1 if problems else 0


def _named_network(found, options: argparse.Namespace):
    """The network of the wanted size, of the family that the weights belong to."""
    from cosmos1.checkpoint import networks

    family = networks.family_of(found)
    if options.model not in family.sizes:
        raise CheckpointError(
            f"{options.source} holds a {networks.describe(found)}; --model {options.model} is no {family.network}: use one "
            f"of {', '.join(family.sizes)}"
        )
    return family.config_of_size(options.model, options.video2world)


if __name__ == "__main__":
    sys.exit(main())
