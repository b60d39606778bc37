# SPDX-License-Identifier: Apache-2.0
"""The command line of every recipe: NeMo-Run's, with exit statuses and messages that can be relied on.

    if __name__ == "__main__":
        main(train, default_factory=cosmos_diffusion_7b_text2world_finetune)

Exit status 0: done. 1: an exception, with its traceback. 2: a mistake of the user (a bad command line, or a
cosmos1.errors.UserError during the run), with one line that starts with `error:` and no traceback.
"""

import dataclasses
import difflib
import enum
import logging
import os
import pydoc
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple

# NeMo-Run would execute any workspace.py it finds in the current directory or above; it reads this when imported.
os.environ.setdefault("INCLUDE_WORKSPACE_FILE", "false")

import fiddle as fdl
import nemo_run as run
import typer
from nemo_run.cli import api as nemo_cli

from cosmos1.errors import ConfigError, UserError, suggestion
from cosmos1.launch import transforms  # noqa: F401  (model_transform=lora)
from cosmos1.launch.overrides import apply_override, factory_names, walk

NOT_SET = "<not set>"


def main(fn: Callable, default_factory: Optional[Callable] = None, **kwargs: Any) -> None:
    """Run `fn` as the command line says; `default_factory` builds its arguments when --factory is absent.

    `kwargs` go to nemo_run.cli.main. Leaves by SystemExit unless the status is 0.
    """
    nemo_cli.INCLUDE_WORKSPACE_FILE = os.environ["INCLUDE_WORKSPACE_FILE"].lower() == "true"
    logging.getLogger("nemo_run.cli.cli_parser").disabled = True  # it repeats each mistake in its own words
    nemo_cli.print = lambda *args, **kwargs: None  # its remarks about itself, once per rank
    if not is_main_rank() and {"--help"} & set(sys.argv):
        return
    try:
        run.cli.main(fn, default_factory=default_factory, run_ctx_cls=RecipeContext, **kwargs)
    except Exception as error:  # typer brings a click of its own, so the class of a usage error has two homes
        if not hasattr(error, "format_message"):
            raise
        stop(error.format_message())


def is_main_rank() -> bool:
    """Whether this process is the one that prints: the only one, or rank 0 of a distributed start."""
    return os.environ.get("RANK", "0") == "0"


def under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def stop(message: str) -> NoReturn:
    """Print `error: message` once and exit with status 2.

    Ranks usually share a mistake. When one process exits, torchrun stops the others; so rank 0 speaks at once and the
    others wait their turn, which comes only if the mistake is theirs alone.
    """
    speaker = "error"
    if under_torchrun() and not is_main_rank():
        speaker = f"error (rank {os.environ['RANK']})"
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(5 + 0.5 * int(os.environ.get("LOCAL_RANK", "0")))
    print(f"{speaker}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


class RecipeContext(run.cli.RunContext):
    """NeMo-Run's run context with checked options, one message per mistake, and a complete dry run."""

    def cli_execute(self, fn: Callable, args: List[str], entrypoint_type: str = "task") -> None:
        """Parse and execute; SystemExit is the one exception that NeMo-Run does not turn into status 0."""
        try:
            for arg in args:
                if arg.startswith("-"):
                    raise ConfigError(f"unknown option {arg}{_option_hint(arg)}")
            self._parse_launcher([arg for arg in args if arg.startswith(("run.", "run="))])
            self._execute_task(fn, [arg for arg in args if not arg.startswith(("run.", "run="))])
        except UserError as error:
            stop(str(error).split("\n\nFiddle context:")[0])
        except typer.Abort:
            stop("this command asks before it starts; answer y, add --yes, or look only with --dryrun")
        except Exception as error:
            _report_exception(error)
            raise SystemExit(1) from None

    def parse_fn(self, fn: Callable, args: List[str], **default_kwargs: Any) -> run.Partial:
        """The recipe of the chosen factory with all settings applied, in the order in which they were typed."""
        files = [arg for arg in args if "=@" in arg]
        recipe = self._base_recipe(fn, files, **default_kwargs)
        for arg in args:
            if arg not in files:
                apply_override(recipe, arg)
        return recipe

    def _base_recipe(self, fn: Callable, files: List[str], **default_kwargs: Any) -> run.Partial:
        """What the factory and the settings files give, before the settings of the command line."""
        self._check_factory(fn)
        try:
            if self.yaml and (table := _stored_table(self.yaml)):
                if files:
                    raise ConfigError(
                        f"--yaml {self.yaml} is a whole recipe; give --factory, or settings, with {files[0]}"
                    )
                self.factory = self.yaml  # the recipe's name in what is printed
                return _buildable(table)
            return super().parse_fn(fn, files, **default_kwargs)
        except Exception as error:
            typed = [*files, *([f"--yaml {self.yaml}"] if self.yaml else [])]
            if isinstance(self.factory, str) and re.search(r"[(.]", self.factory):
                typed.append(f"--factory {self.factory}")
            if not typed or isinstance(error, UserError):
                raise  # a defect of the recipe, not of the command
            reason = str(getattr(error, "reason", error)).splitlines()[0]
            raise ConfigError(f"{reason.split(' (Argument:')[0]} (given: {', '.join(typed)})") from error

    def _check_factory(self, fn: Callable) -> None:
        """Refuse what is no registered factory: NeMo-Run would call any function of the script, as `train`."""
        typed = _typer_context().params.get("factory")
        if typed is None:
            return
        name, known = typed.split("(")[0], factory_names(fn)
        if name not in known and "." not in name:
            raise ConfigError(f'no factory "{typed}"{suggestion(name, known)} (given: --factory {typed})')

    def _parse_launcher(self, args: List[str]) -> None:
        if args and under_torchrun():
            raise ConfigError(f"{args[0]} starts a job, and torchrun would start one per process; call it with python")
        try:
            self.parse_args([arg.removeprefix("run.") for arg in args])
        except Exception as error:
            raise ConfigError(f"cannot use {' '.join(args)}: {str(error).splitlines()[0]}") from error

    def _execute_task(self, fn: Callable, task_args: List[str]) -> None:
        if any([self.to_yaml, self.to_toml, self.to_json, self.repl]):
            return super()._execute_task(fn, task_args) if is_main_rank() else None
        recipe = self.parse_fn(fn, task_args)
        skip_confirmation = self.skip_confirmation or under_torchrun()
        if is_main_rank():
            self._print_recipe(recipe, task_args, complete=self.dryrun or not skip_confirmation)
        if self.dryrun:
            return None
        _check_complete(recipe)
        if not self._should_continue(skip_confirmation):
            return None
        if self.executor is None:
            return fdl.build(recipe)()
        return self._launch_job(recipe)

    def _print_recipe(self, recipe: run.Partial, overrides: List[str], complete: bool) -> None:
        factory = self.factory if isinstance(self.factory, str) else getattr(self.factory, "__name__", "none")
        print(f"recipe: {factory}")
        lines = [f"{key} = {value}" for key, value in flat_recipe(recipe)] if complete else overrides
        for line in lines:
            print(f"  {line}")
        if self.executor is not None:
            print(f"executor: {self.executor}")
        sys.stdout.flush()

    def _launch_job(self, recipe: run.Partial) -> None:
        with run.Experiment(self.name, executor=self.executor) as experiment:
            experiment.add(recipe, tail_logs=True, plugins=self.plugins, name=self.name)
            experiment.run(detach=self.detach)  # leaving the block waits for the job, unless detached
        if self.detach:
            return
        states = {name: str(job["status"]) for name, job in experiment.status(return_dict=True).items()}
        failed = {name: state for name, state in states.items() if state != "SUCCEEDED"}
        if failed:
            raise RuntimeError(f"the job did not succeed: {failed}")


def _stored_table(path: str) -> Optional[Dict[str, Any]]:
    """What --to-yaml wrote; None for a file of settings, or one that NeMo-Run shall complain about."""
    import yaml

    try:
        table = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return table if isinstance(table, dict) and "_partial_" in table else None


def _buildable(value: Any) -> Any:
    """The inverse of --to-yaml; NeMo-Run's own reader leaves objects in lists as tables."""
    if isinstance(value, list):
        return [_buildable(item) for item in value]
    if not isinstance(value, dict):
        return value
    arguments = {name: _buildable(item) for name, item in value.items() if name not in ("_target_", "_partial_")}
    if "_target_" not in value:
        return arguments
    target = pydoc.locate(value["_target_"])
    if target is None:
        raise ConfigError(f"no {value['_target_']} here; the recipe in the file was written by another version")
    return (run.Partial if value.get("_partial_") else run.Config)(target, **arguments)


def resolved_recipe(recipe: fdl.Buildable) -> Dict[str, Any]:
    """A recipe as nested dictionaries of plain values, defaults included, fit for YAML or JSON.

    `_target_` names the function or class that each level configures; an argument without value is "<not set>".
    """
    arguments = fdl.ordered_arguments(recipe, include_defaults=True, include_unset=True)
    target = recipe.__fn_or_cls__
    if dataclasses.is_dataclass(target):
        made = {field.name: field.default_factory for field in dataclasses.fields(target) if field.init}
        for name in made.keys() - fdl.ordered_arguments(recipe).keys():
            if made[name] is not dataclasses.MISSING:
                arguments[name] = made[name]()
    return {"_target_": _import_path(target)} | {str(name): _plain(value) for name, value in arguments.items()}


def flat_recipe(recipe: fdl.Buildable) -> Iterator[Tuple[str, Any]]:
    """Pairs of dotted key and value, one per argument of a recipe, spelled as they are typed on the command line."""

    def flatten(value: Any, path: str) -> Iterator[Tuple[str, Any]]:
        if isinstance(value, dict) and "_target_" in value:
            if path:
                yield path, value["_target_"]
            for name, child in value.items():
                if name != "_target_":
                    yield from flatten(child, f"{path}.{name}".lstrip("."))
        elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
            for index, child in enumerate(value):
                yield from flatten(child, f"{path}[{index}]")
        else:
            yield path, value

    return flatten(resolved_recipe(recipe), "")


def _plain(value: Any) -> Any:
    if value is fdl.NO_VALUE:
        return NOT_SET
    if isinstance(value, fdl.Buildable):
        return resolved_recipe(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"_target_": _import_path(type(value))} | fields
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(child) for child in value]
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or type(value) in (bool, int, float, str):
        return value
    return _import_path(value) if hasattr(value, "__qualname__") else str(value)


def _import_path(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _check_complete(recipe: fdl.Buildable) -> None:
    for path, config in walk(recipe):
        if path and isinstance(config, fdl.Partial):
            continue  # its caller supplies the rest
        for name, value in fdl.ordered_arguments(config, include_defaults=True, include_unset=True).items():
            if value is fdl.NO_VALUE:
                key = f"{path}.{name}".lstrip(".")
                raise ConfigError(f"{key} has no value in this recipe; add {key}=VALUE to the command")


def _option_hint(option: str) -> str:
    """The closest option of this command, from the parser that is reading the command line."""
    known = [name for action in _typer_context().command.params for name in (*action.opts, *action.secondary_opts)]
    close = difflib.get_close_matches(option.split("=")[0], known, n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists the options, and settings are name=value"


def _typer_context() -> Any:
    try:
        from typer._click.globals import get_current_context
    except ImportError:  # typer before it brought its own click
        from click import get_current_context
    return get_current_context()


def _report_exception(error: Exception) -> None:
    """Show the traceback, and hand it to torchrun for its summary of which rank failed first."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    traceback.print_exc()
