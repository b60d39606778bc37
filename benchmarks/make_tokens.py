# SPDX-License-Identifier: Apache-2.0
"""Write random video tokens as an indexed dataset, to measure the training of autoregressive networks.

python benchmarks/make_tokens.py /tmp/tokens --latent_shape 5 40 64 --num_samples 16
"""

import argparse
import math
from pathlib import Path

import numpy as np

from cosmos1.data.formats.indexed_file import write_indexed_file
from cosmos1.data.formats.token_facts import VOCABULARY_SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--latent_shape", type=int, nargs=3, default=[5, 40, 64])
    parser.add_argument("--num_samples", type=int, default=16)
    options = parser.parse_args()
    options.output_path.mkdir(parents=True, exist_ok=True)
    length = math.prod(options.latent_shape)
    samples = [np.random.RandomState(i).randint(0, VOCABULARY_SIZE, length) for i in range(options.num_samples)]
    write_indexed_file(options.output_path, samples)


if __name__ == "__main__":
    main()
