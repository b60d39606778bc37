# SPDX-License-Identifier: Apache-2.0
"""Train the documented recipes under several parallel layouts and print losses, speed and memory as a table.

    python benchmarks/layouts.py --data /tmp/latents --group width7b-2gpu --overrides data.num_workers=2

Each case is one ``torchrun recipes/{diffusion,autoregressive}/general.py`` with the overrides shown; timing is the median of the last
three of its steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TP, PP, CP = (f"trainer.strategy.{n}_parallel_size" for n in ("tensor_model", "pipeline_model", "context"))
SP, FSDP = "trainer.strategy.sequence_parallel", "trainer.strategy.fsdp"
TINY, SEVEN = "cosmos_diffusion_tiny_text2world_finetune", "cosmos_diffusion_7b_text2world_finetune"
FOUR = "cosmos_autoregressive_4b_finetune"
TOKENS = ["data.split_string=1,0,0"]
WIDTH = ["model.config.num_layers=4", f"{FSDP}=false", "optim.config.lr=1e-5"]

# group -> [(name, number of GPUs, factory, overrides)]
GROUPS = {
    "tiny-1gpu": [
        ("tiny fp32", 1, TINY, ["trainer.precision=fp32"]),
        ("tiny bf16", 1, TINY, ["trainer.precision=bf16"]),
    ],
    "width7b-1gpu": [
        ("1 GPU", 1, SEVEN, [*WIDTH]),
        ("1 GPU, eager", 1, SEVEN, [*WIDTH, "model.config.compile=false"]),
        ("1 GPU, selective", 1, SEVEN, [*WIDTH, "model.config.recompute_granularity=selective"]),
        ("1 GPU, FSDP=1", 1, SEVEN, [*WIDTH, f"{FSDP}=true"]),
    ],
    "tiny-2gpu": [
        ("tiny TP=2 + SP", 2, TINY, ["trainer.precision=bf16", f"{TP}=2", f"{SP}=true"]),
        ("tiny CP=2", 2, TINY, ["trainer.precision=bf16", f"{CP}=2"]),
        ("tiny PP=2", 2, TINY, ["trainer.precision=bf16", f"{PP}=2"]),
        ("tiny FSDP=2", 2, TINY, ["trainer.precision=bf16", f"{FSDP}=true", "data.micro_batch_size=4"]),
    ],
    "width7b-2gpu": [
        ("TP=2 + SP", 2, SEVEN, [*WIDTH, f"{TP}=2", f"{SP}=true"]),
        ("CP=2", 2, SEVEN, [*WIDTH, f"{CP}=2"]),
        ("PP=2", 2, SEVEN, [*WIDTH, f"{PP}=2"]),
    ],
    "width7b-8gpu": [
        ("FSDP=8", 8, SEVEN, [*WIDTH, f"{FSDP}=true"]),
        ("TP=2 x CP=2 x FSDP=2", 8, SEVEN, [*WIDTH, f"{FSDP}=true", f"{TP}=2", f"{SP}=true", f"{CP}=2"]),
    ],
    "full7b-8gpu": [
        ("7B, FSDP=8", 8, SEVEN, []),
        ("7B, FSDP=8, selective", 8, SEVEN, ["model.config.recompute_granularity=selective"]),
    ],
    "gpt4b-1gpu": [
        ("4B, 1 GPU, selective", 1, FOUR, [*TOKENS, f"{FSDP}=false", "data.global_batch_size=2"]),
        (
            "4B, 1 GPU, no recomputation",
            1,
            FOUR,
            [*TOKENS, f"{FSDP}=false", "data.global_batch_size=2", "model.config.recompute_granularity=None"],
        ),
    ],
    "gpt4b-8gpu": [
        ("4B, FSDP=8", 8, FOUR, [*TOKENS]),
        ("4B, TP=2 + SP, DP=4", 8, FOUR, [*TOKENS, f"{FSDP}=false", f"{TP}=2", f"{SP}=true"]),
    ],
    "full7b-8gpu-cp8": [
        ("7B, CP=8, 1 sample", 8, SEVEN, [f"{CP}=8", "data.global_batch_size=1"]),
        ("7B, TP=8 + SP, 1 sample", 8, SEVEN, [f"{FSDP}=false", f"{TP}=8", f"{SP}=true", "data.global_batch_size=1"]),
    ],
}


def run_case(name: str, num_gpus: int, factory: str, overrides: list[str], common: list[str]) -> dict:
    """Run one case; returns its row."""
    family = "autoregressive" if factory.startswith("cosmos_autoregressive") else "diffusion"
    with tempfile.TemporaryDirectory() as folder:
        command = ["torchrun", "--standalone", f"--nproc_per_node={num_gpus}", f"recipes/{family}/general.py", "--yes"]
        command += ["--factory", factory, f"log.log_dir={folder}", "log.version=v", "log.ckpt.save_last=false"]
        command += [
            "trainer.val_check_interval=0",
            "trainer.log_every_n_steps=1",
            "trainer.callbacks=[]",
            *common,
            *overrides,
        ]
        started = time.time()
        process = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *command[1:]], capture_output=True, text=True
        )
        row = {"case": name, "seconds": time.time() - started}
        metrics = Path(folder, "default", "v", "metrics.jsonl")
        if process.returncode or not metrics.exists():
            print(process.stdout[-600:], process.stderr[-2500:], flush=True)
            return row | {"failed": process.returncode}
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        last = steps[-3:]
        row |= {"losses": [round(step["loss"], 4) for step in steps], "grad_norm": round(steps[-1]["grad_norm"], 3)}
        for key in ("step_time_s", "data_time_s", "tflops_per_gpu", "mfu"):
            row[key] = statistics.median(step.get(key, 0.0) for step in last)
        return row | {"memory_gib": steps[-1]["memory_gib"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="folder of latents or tokens (benchmarks/make_latents.py, make_tokens.py)"
    )
    parser.add_argument("--group", nargs="+", choices=GROUPS, required=True)
    parser.add_argument("--max_steps", type=int, default=5)
    parser.add_argument("--overrides", nargs="*", default=[], help="key=value for every case")
    options = parser.parse_args()
    common = [f"data.path={options.data}", f"trainer.max_steps={options.max_steps}", *options.overrides]
    print("| case | losses | s/step | TFLOP/s/GPU | MFU | peak GiB |\n|---|---|---|---|---|---|", flush=True)
    for group in options.group:
        for case in GROUPS[group]:
            row = run_case(*case, common)
            if "failed" in row:
                print(
                    f"| {row['case']} | failed with status {row['failed']} after {row['seconds']:.0f} s |", flush=True
                )
                continue
            losses = " ".join(f"{loss:.4f}" for loss in row["losses"])
            print(
                f"| {row['case']} | {losses} | {row['step_time_s']:.2f} | {row['tflops_per_gpu']:.0f} | {row['mfu']:.1%} | "
                f"{row['memory_gib']:.1f} |  <!-- {row['seconds']:.0f} s, data {row['data_time_s']:.3f} s -->",
                flush=True,
            )


if __name__ == "__main__":
    main()
