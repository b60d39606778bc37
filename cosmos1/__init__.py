# SPDX-License-Identifier: Apache-2.0
"""Post-training of Cosmos world foundation models."""

import warnings

# Said while they are imported, whichever of our modules comes first: about their own code (missing apex, renamed
# collectives), nothing a user could mend. `python -m cosmos1.doctor` tells what is missing and what that means.
for _module in (r"megatron\.core", r"torch\.distributed\.c10d_logger"):
    warnings.filterwarnings("ignore", module=_module)
warnings.filterwarnings("ignore", message="Apex is not installed")
