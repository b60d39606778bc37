# SPDX-License-Identifier: Apache-2.0
"""Power-function EMA of the weights (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
Models"; cosmos-predict1, ``utils/ema.py``). It follows the fp32 master weights, shard by shard."""

import numpy as np
import torch


def power_exponent(width: float) -> float:
    """Exponent g of the profile with relative width s: largest root of g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2) = 0."""
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(roots[np.isclose(roots.imag, 0)].real.max())


def power_beta(exponent: float, step: int) -> float:
    """Weight of the old average at ``step`` (0-based): ``(1 - 1 / (step + 1)) ** (g + 1)``, 0 at step 0."""
    return (1.0 - 1.0 / (step + 1)) ** (exponent + 1)


class PowerEMA:
    """EMA copies of a list of fp32 tensors, one list per relative width."""

    def __init__(self, widths: list[float], tensors: list[torch.Tensor]):
        self.exponents = [power_exponent(width) for width in widths]
        self.tensors = tensors
        self.copies = [[tensor.detach().clone() for tensor in tensors] for _ in widths]

    @torch.no_grad()
    def restart(self) -> None:
        """Start from the present weights, after others were loaded."""
        for copy in self.copies:
            for average, tensor in zip(copy, self.tensors):
                average.copy_(tensor)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after optimizer step ``step`` (0-based)."""
        for exponent, copy in zip(self.exponents, self.copies):
            if copy:
                torch._foreach_lerp_(copy, [t.detach() for t in self.tensors], 1.0 - power_beta(exponent, step))
