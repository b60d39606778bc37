# SPDX-License-Identifier: Apache-2.0
"""Train the documented recipes under several parallel layouts and print losses, speed and memory as a table.

    python benchmarks/layouts.py --data /tmp/latents --group width7b --overrides data.num_workers=2

Each case is one ``torchrun recipes/{diffusion,autoregressive}/general.py`` with the overrides shown; timing is the median of the last
three of its steps. Cases that fit beside one another run so, each on its own GPUs. All cases of a group see the same samples, so that
their losses can be compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

from gpus import GPUs, visible_gpus

TP, PP, CP = (f"trainer.strategy.{n}_parallel_size" for n in ("tensor_model", "pipeline_model", "context"))
SP, FSDP = "trainer.strategy.sequence_parallel", "trainer.strategy.fsdp"
TINY, SEVEN = "cosmos_diffusion_tiny_text2world_finetune", "cosmos_diffusion_7b_text2world_finetune"
FOUR = "cosmos_autoregressive_4b_finetune"
TOKENS = ["data.split_string=1,0,0"]
WIDTH = ["model.config.num_layers=4", f"{FSDP}=false", "optim.config.lr=1e-5"]
# Adapters want a trained network, unless a run says that it wants none.
UNTRAINED = ["resume.restore_config=None", "data.global_batch_size=1"]

LAYOUTS = [
    ("1 GPU", 1, []),
    ("TP=2 + SP", 2, [f"{TP}=2", f"{SP}=true"]),
    ("CP=2", 2, [f"{CP}=2"]),
    ("PP=2", 2, [f"{PP}=2"]),
    ("FSDP=8", 8, [f"{FSDP}=true"]),
    ("TP=2 x CP=2 x FSDP=2", 8, [f"{FSDP}=true", f"{TP}=2", f"{SP}=true", f"{CP}=2"]),
]


def every_layout(label: str, factory: str, overrides: list[str]) -> list[tuple]:
    """One case for each of ``LAYOUTS``."""
    return [(f"{label} {name}", gpus, factory, [*overrides, *layout]) for name, gpus, layout in LAYOUTS]


# group -> [(name, number of GPUs, factory, overrides)]
GROUPS = {
    "tiny-fp32": every_layout("tiny fp32,", TINY, ["trainer.precision=fp32", "data.micro_batch_size=1"]),
    "tiny-bf16": every_layout("tiny bf16,", TINY, ["trainer.precision=bf16", "data.micro_batch_size=1"]),
    "width7b": every_layout("7B width,", SEVEN, WIDTH),
    "width7b-1gpu": [
        ("1 GPU", 1, SEVEN, [*WIDTH, "data.global_batch_size=2"]),
        ("1 GPU, eager", 1, SEVEN, [*WIDTH, "data.global_batch_size=2", "model.config.compile=false"]),
    ],
    "lora7b-1gpu": [
        ("7B, adapters of rank 16, 1 GPU", 1, SEVEN, ["model_transform=lora", f"{FSDP}=false", *UNTRAINED]),
    ],
    "full7b": [("7B, FSDP=8", 8, SEVEN, [])],
    "full7b-cp8": [("7B, CP=8, 1 sample", 8, SEVEN, [f"{CP}=8", "data.global_batch_size=1"])],
    "full7b-tp8": [
        ("7B, TP=8 + SP, 1 sample", 8, SEVEN, [f"{FSDP}=false", f"{TP}=8", f"{SP}=true", "data.global_batch_size=1"]),
    ],
    "gpt4b-1gpu": [
        ("4B, 1 GPU, selective", 1, FOUR, [*TOKENS, f"{FSDP}=false"]),
        ("4B, 1 GPU, no recomputation", 1, FOUR, [*TOKENS, f"{FSDP}=false", "model.config.recompute_granularity=None"]),
    ],
    "gpt4b-8gpu": [
        ("4B, FSDP=8", 8, FOUR, [*TOKENS]),
        ("4B, TP=2 + SP, DP=4", 8, FOUR, [*TOKENS, f"{FSDP}=false", f"{TP}=2", f"{SP}=true"]),
    ],
}


def run_case(case: tuple, common: list[str], gpus: GPUs, timeout_s: float) -> str:
    """Run one case; returns its row of the table."""
    name, num_gpus, factory, overrides = case
    family = "autoregressive" if factory.startswith("cosmos_autoregressive") else "diffusion"
    with tempfile.TemporaryDirectory() as folder, gpus.some(num_gpus) as chosen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_gpus}"]
        command += [f"recipes/{family}/general.py", "--yes", "--factory", factory]
        command += [
            f"log.log_dir={folder}",
            "log.version=v",
            "log.ckpt.save_last=false",
            "trainer.val_check_interval=0",
        ]
        command += ["trainer.log_every_n_steps=1", "trainer.callbacks=[]", *common, *overrides]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": chosen}
        started = time.time()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # torchrun ends its workers, after half a minute by force.
            process.terminate()
            output, _ = process.communicate()
        seconds = time.time() - started
        metrics = Path(folder, "default", "v", "metrics.jsonl")
        if process.returncode:
            print(output[-4000:], flush=True)
            return f"| {name} | failed with status {process.returncode} after {seconds:.0f} s |"
        return row_of(name, [json.loads(line) for line in metrics.read_text().splitlines()], seconds)


def row_of(name: str, steps: list[dict], seconds: float) -> str:
    """The table's row of a case that ended well after ``seconds``."""
    losses = " ".join(f"{step['loss']:.5f}" for step in steps)
    step_s, data_s, tflops, mfu = (
        statistics.median(step.get(key, 0.0) for step in steps[-3:])
        for key in ("step_time_s", "data_time_s", "tflops_per_gpu", "mfu")
    )
    return (
        f"| {name} | {losses} | {steps[-1]['grad_norm']:.4f} | {step_s:.2f} | {tflops:.0f} | {mfu:.1%} | "
        f"{steps[-1]['memory_gib']:.1f} |  <!-- {seconds:.0f} s, data {data_s:.3f} s -->"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="folder of latents or tokens (benchmarks/make_latents.py, make_tokens.py)"
    )
    parser.add_argument("--group", nargs="+", choices=GROUPS, required=True)
    parser.add_argument("--num_gpus", type=int, default=len(visible_gpus()) or 8, help="GPUs of this machine")
    parser.add_argument(
        "--share", type=int, default=1, help="cases that may use a GPU at the same time (then ignore the speed)"
    )
    parser.add_argument("--max_steps", type=int, default=5)
    parser.add_argument("--timeout_s", type=float, default=300, help="a case that takes longer is stopped")
    parser.add_argument("--overrides", nargs="*", default=[], help="key=value for every case")
    options = parser.parse_args()
    common = [f"data.path={options.data}", f"trainer.max_steps={options.max_steps}", *options.overrides]
    cases = [case for group in options.group for case in GROUPS[group]]
    left_out = [case for case in cases if case[1] > options.num_gpus]
    gpus = GPUs(options.num_gpus, options.share)
    print("| case | losses | gradient norm | s/step | TFLOP/s/GPU | MFU | peak GiB |\n" + "|---" * 7 + "|", flush=True)
    for name, num_gpus, *_ in left_out:
        print(f"| {name} | left out: needs {num_gpus} GPUs, --num_gpus is {options.num_gpus} |", flush=True)
    with futures.ThreadPoolExecutor(max_workers=len(cases)) as threads:
        rows = [
            threads.submit(run_case, case, common, gpus, options.timeout_s) for case in cases if case not in left_out
        ]
        for row in futures.as_completed(rows):
            print(row.result(), flush=True)


if __name__ == "__main__":
    main()
