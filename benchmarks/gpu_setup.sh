# SPDX-License-Identifier: Apache-2.0
# Source this on a GPU machine without a network: installs the wheels carried in .whl beside the machine's own torch.
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=8
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || return 1
export PYTHONPATH=/tmp/site:$PWD/.whl/stub:$PWD
