# SPDX-License-Identifier: Apache-2.0
"""Where a team puts its own rules: rewriting prompts, refusing prompts, changing or refusing videos. All off by default.

``--prompt_hook package.module:function`` is called with each prompt and returns the prompt to use (a prompt upsampler, for
example); ``--video_hook`` with the frames ``[T, H, W, 3]`` uint8 and returns the frames to write. Either refuses by raising
an exception. ``--guardrail`` uses the published Cosmos guardrail (``pip install cosmos_guardrail``) for both. Rules are
applied on the main rank alone; what they say holds on all.
"""

import argparse
import importlib
from typing import TYPE_CHECKING, Any, Callable

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


def add_rule_options(p: argparse.ArgumentParser, prompts: bool = True) -> None:
    """The options that name a team's rules; without ``prompts`` for networks that read none."""
    what = "prompts and videos" if prompts else "videos"
    if prompts:
        p.add_argument("--prompt_hook", help="package.module:function that rewrites or refuses each prompt")
    p.add_argument("--video_hook", help="package.module:function that changes or refuses each video")
    p.add_argument("--guardrail", action="store_true", help=f"check {what} with cosmos_guardrail (default: off)")
    p.set_defaults(prompt_hook=None)


def load_hook(name: str | None) -> Callable:
    """The function ``package.module:function``, or one that returns its argument."""
    if name is None:
        return lambda value: value
    module, separator, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f'hook "{name}" cannot be loaded ({error}); write package.module:function') from error


def load_guardrail() -> tuple[Callable, Callable]:
    """Prompt and video checks of the ``cosmos_guardrail`` package; its networks are loaded on the main rank alone, where
    the checks must be called."""
    from cosmos1.parallel.process_groups import on_main_rank

    checkers: list[Any] = []
    on_main_rank(lambda: checkers.append(_load_checker()))

    def check_prompt(prompt: str) -> str:
        if not checkers[0].check_text_safety(prompt):
            raise ConfigError(f"the guardrail refuses the prompt: {prompt}")
        return prompt

    def check_video(frames: "np.ndarray") -> "np.ndarray":
        checked = checkers[0].check_video_safety(frames)
        if checked is None:
            raise ConfigError(
                "the guardrail refuses the video, which is not written; change the prompt or the --seed, or leave out "
                "--guardrail"
            )
        return checked

    return check_prompt, check_video


def _load_checker() -> Any:
    from cosmos1.parallel.device import device

    try:
        from cosmos_guardrail import CosmosSafetyChecker
    except ImportError as error:
        raise ConfigError("--guardrail needs the package cosmos_guardrail; pip install cosmos_guardrail") from error
    checker = CosmosSafetyChecker()
    # Like modules of torch it moves itself; it need not return itself.
    checker.to(device())
    return checker
