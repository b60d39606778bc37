# SPDX-License-Identifier: Apache-2.0
"""Where a team puts its own rules: rewriting prompts, refusing prompts, changing or refusing videos. All off by default.

``--prompt_hook package.module:function`` is called with each prompt and returns the prompt to use (a prompt upsampler, for
example); ``--video_hook`` with the frames ``[T, H, W, 3]`` uint8 and returns the frames to write. Either refuses by raising
an exception. ``--guardrail`` uses the published Cosmos guardrail (``pip install cosmos_guardrail``) for both.
"""

import importlib
from typing import Callable

from cosmos1.errors import ConfigError


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
    """Prompt and video checks of the ``cosmos_guardrail`` package."""
    try:
        from cosmos_guardrail import CosmosSafetyChecker
    except ImportError as error:
        raise ConfigError("--guardrail needs the package cosmos_guardrail; pip install cosmos_guardrail") from error
    checker = CosmosSafetyChecker()

    def check_prompt(prompt: str) -> str:
        if not checker.check_text_safety(prompt):
            raise ConfigError(f"the guardrail refuses the prompt: {prompt}")
        return prompt

    return check_prompt, checker.check_video_safety
