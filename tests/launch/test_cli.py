# SPDX-License-Identifier: Apache-2.0
"""Exit statuses, messages and the dry run of the command line, seen from outside as a shell sees them."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Union

import fiddle as fdl
import nemo_run as run
import pytest
import yaml
from nemo_run.core.serialization.yaml import YamlSerializer

from cosmos1.errors import ConfigError
from cosmos1.launch.cli import _buildable, flat_recipe, resolved_recipe
from cosmos1.launch.overrides import apply_override

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import os
from dataclasses import dataclass
from typing import Optional
import nemo_run as run
from cosmos1.errors import ConfigError, DataError
from cosmos1.launch.cli import main

@dataclass
class Data:
    path: str

@dataclass
class Trainer:
    max_steps: int = 5
    fail: Optional[str] = None

    def __post_init__(self):
        if self.max_steps < 0:
            raise ConfigError(f"max_steps is {self.max_steps}; it must not be negative")

def train(data: Data, trainer: Trainer):
    rank = os.environ.get("RANK", "0")
    if trainer.fail == "data":
        raise DataError("clip.mp4: 3 frames found, 9 needed")
    if trainer.fail == f"rank {rank}":
        raise RuntimeError("boom on rank " + rank)
    if rank == "0":
        print(f"trained {trainer.max_steps} steps on {data.path}")

@run.cli.factory(target=train)
def tiny_text2world() -> run.Partial:
    return run.Partial(train, data=run.Config(Data, path="demo"), trainer=run.Config(Trainer))

@run.cli.factory(target=train)
def bring_your_data() -> run.Partial:
    return run.Partial(train, data=run.Config(Data), trainer=run.Config(Trainer))

if __name__ == "__main__":
    main(train, default_factory=tiny_text2world)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Call the script above: command("a=1", ranks=0) -> (status, stdout, stderr); 0 ranks means without torchrun."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "general.py").write_text(SCRIPT)
    (folder / "workspace.py").write_text("raise RuntimeError('workspace.py was executed')")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "NEMORUN_HOME": str(folder), "OMP_NUM_THREADS": "1"}

    def call(*arguments, ranks=0, answer=""):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks else []
        done = subprocess.run(
            [sys.executable, *launcher, "general.py", *arguments],
            cwd=folder,
            env=environment,
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trainer.max_step=7"],
            'no parameter "max_step" in trainer; did you mean "max_steps"? (given: trainer.max_step=7)',
        ),
        (["--dry-run"], "unknown option --dry-run; did you mean --dryrun?"),
        (
            ["--factory", "tiny_text2word"],
            'no factory "tiny_text2word"; did you mean "tiny_text2world"? (given: --factory tiny_text2word)',
        ),
        (["--factory="], 'no factory ""; there is: bring_your_data, tiny_text2world (given: --factory )'),
        (
            ["--factory", "train"],
            'no factory "train"; there is: bring_your_data, tiny_text2world (given: --factory train)',
        ),
        (["--factory", "bring_your_data"], "data.path has no value in this recipe; add data.path=VALUE to the command"),
        (["trainer.fail=data"], "clip.mp4: 3 frames found, 9 needed"),
        (["trainer.max_steps=-1"], "max_steps is -1; it must not be negative"),
    ],
)
def test_mistake_exits_2_with_one_line(command, arguments, message):
    status, _, errors = command("--yes", *arguments)
    assert (status, errors) == (2, f"error: {message}\n")


def test_exception_exits_1_with_traceback(command):
    status, _, errors = command("--yes", "trainer.fail=rank 0")
    assert status == 1
    assert "in train" in errors and errors.endswith("RuntimeError: boom on rank 0\n")


def test_success_and_confirmation(command):
    assert command("--yes", "data.path=general.SCRIPT")[:2] == (
        0,
        "recipe: tiny_text2world\n  data.path=general.SCRIPT\ntrained 5 steps on general.SCRIPT\n",
    )
    status, output, _ = command(answer="y\n")
    assert status == 0 and "trainer.max_steps = 5" in output and "trained 5 steps on demo" in output
    status, output, errors = command()
    assert status == 2 and "add --yes" in errors and "trained" not in output


def test_dry_run_and_help(command):
    status, output, errors = command("--dryrun", "trainer.max_steps=9")
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        "recipe: tiny_text2world",
        "  data = __main__.Data",
        "  data.path = demo",
        "  trainer = __main__.Trainer",
        "  trainer.max_steps = 9",
        "  trainer.fail = None",
    ]
    status, output, _ = command("--help")
    assert status == 0 and "--dryrun" in output and "bring_your_data" in output


def test_a_recipe_that_was_written_is_read_again(command):
    assert command("--to-yaml", "stored.yaml", "trainer.max_steps=9")[0] == 0
    status, output, _ = command("--yaml", "stored.yaml", "--yes", "data.path=there")
    assert status == 0 and "trained 9 steps on there" in output and "recipe: stored.yaml" in output


@pytest.mark.distributed
def test_one_rank_skips_the_confirmation(command):
    status, output, _ = command("trainer.max_steps=7", ranks=1)
    assert status == 0 and "trained 7 steps on demo" in output


@pytest.mark.distributed
def test_two_ranks(command):
    status, output, _ = command("data.path=/tmp/x", ranks=2)
    assert status == 0 and output.count("recipe:") == 1 and output.count("data.path=/tmp/x") == 1
    status, output, errors = command("trainer.max_step=7", ranks=2)
    assert status != 0 and errors.count("error: no parameter") == 1 and "error (rank" not in errors
    status, _, errors = command("trainer.fail=rank 1", ranks=2)
    assert status != 0 and "boom on rank 1" in errors.split("Root Cause")[1]


@dataclass
class Adam:
    lr: float = 1e-4
    name: Literal["adam", "sgd"] = "adam"
    betas: List[float] = field(default_factory=lambda: [0.9, 0.95])


@dataclass
class Optim:
    config: Adam = field(default_factory=Adam)
    warmup: "int | None" = None
    tag: Union[str, List[str]] = "x"
    weights: Dict[str, float] = field(default_factory=dict)
    loose: Any = None


def fit(optim: Optim, callbacks: List[Any], run_name: Optional[str] = None, train_on: str = "demo"):
    return optim, callbacks, run_name, train_on


@pytest.fixture
def recipe():
    return run.Partial(fit, optim=run.Config(Optim), callbacks=[run.Config(Adam), run.Config(Adam)])


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optim.config.lr=1e-6", "optim.config.lr", 1e-6),
        ("optim.config.betas=[0.5,1]", "optim.config.betas", [0.5, 1.0]),
        ("optim.config.name=sgd", "optim.config.name", "sgd"),
        ("optim.warmup=1_000", "optim.warmup", 1000),
        ("optim.warmup=None", "optim.warmup", None),
        ("optim.tag=['a','b']", "optim.tag", ["a", "b"]),
        ("optim.tag=a=b", "optim.tag", "a=b"),
        ("optim.weights={'bridge':2}", "optim.weights", {"bridge": 2.0}),
        ("optim.loose=[1,2]", "optim.loose", [1, 2]),
        ("callbacks[1].lr*=10", "callbacks[1].lr", 1e-3),
        ("callbacks[1].betas+=[0.5]", "callbacks[1].betas", [0.9, 0.95, 0.5]),
        ("run_name=os.getcwd", "run_name", "os.getcwd"),
        ("train_on=${HOME}/pytest", "train_on", "${HOME}/pytest"),
        ("train_on=''", "train_on", ""),
    ],
)
def test_override_sets_the_value(recipe, override, key, value):
    apply_override(recipe, override)
    assert dict(flat_recipe(recipe))[key] == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", 'no parameter "lr" in the recipe; did you mean callbacks[0].lr or callbacks[1].lr?'),
        ("optm.config.lr=1", 'no parameter "optm" in the recipe; did you mean "optim"?'),
        ("optim.zzz=1", 'no parameter "zzz" in optim; there is: config, loose, tag, warmup, weights'),
        ("callbacks[7].lr=1", "no item [7] in callbacks, which has 2 items"),
        ("callbacks[0]=1", "one item of a list cannot be replaced; write callbacks=[...]"),
        ("optim.loose.a=1", "optim.loose is None, so nothing inside it can be set; give optim.loose as a whole"),
        ("optim.weights.a=1", "optim.weights is {}, so nothing inside it can be set"),
        ("optim.warmup=7.5", 'optim.warmup needs an integer or None, got "7.5" (given: optim.warmup=7.5)'),
        ("optim.config.name=adamw", 'needs one of adam, sgd, got "adamw"; did you mean "adam"?'),
        ("optim.config.betas=1,2", "needs a list such as [0.5,1], each item a number"),
        ("optim.config=Nothing", 'optim.config cannot be set to "Nothing"'),
        ("train_on=", "no value after train_on=; write train_on='' for an empty text"),
        ("optim..loose=1", '"optim..loose=1" is no option and no setting'),
        ("optim.config.lr=nan", "optim.config.lr would be nan; numbers must be finite (given: optim.config.lr=nan)"),
        ("optim.weights={'bridge':1e999}", "optim.weights would be {'bridge': inf}; numbers must be finite"),
        ("optim.config.lr/=0", "optim.config.lr is 0.0001, which /=0.0 cannot change"),
        ("optim.warmup+=1", "optim.warmup has no value yet; write = instead"),
        ("callbacks[0].betas-=[0.9]", "callbacks[0].betas is [0.9, 0.95], which -=[0.9] cannot change; write = and"),
        ("train_on", '"train_on" is no option and no setting; write name=value'),
    ],
)
def test_override_refuses_with_a_remedy(recipe, override, message):
    before = resolved_recipe(recipe)
    with pytest.raises(ConfigError) as caught:
        apply_override(recipe, override)
    assert message in str(caught.value)
    assert resolved_recipe(recipe) == before


def test_an_integer_stays_one(recipe):
    recipe.optim.warmup = 8
    apply_override(recipe, "optim.warmup/=2")
    assert recipe.optim.warmup == 4 and type(recipe.optim.warmup) is int
    with pytest.raises(ConfigError, match=r"optim.warmup is 4, which /=3 cannot change: it needs an integer"):
        apply_override(recipe, "optim.warmup/=3")


def test_a_word_is_no_object(recipe):
    recipe.optim.loose = run.Config(Adam)
    with pytest.raises(ConfigError, match='optim.loose cannot be set to "energon_shard", which is no object'):
        apply_override(recipe, "optim.loose=energon_shard")
    assert recipe.optim.loose == run.Config(Adam)


def test_operations_leave_other_recipes_and_settings_alone(recipe):
    shared = ["a"]
    recipe.optim.tag, recipe.optim.loose = shared, shared
    apply_override(recipe, "optim.tag+=['b']")
    assert (recipe.optim.tag, recipe.optim.loose) == (["a", "b"], ["a"])
    apply_override(recipe, "optim.loose+=['c']")
    assert (recipe.optim.loose, shared) == (["a", "c"], ["a"])


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("recipes/[ad]*/*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_no_two_settings_of_a_recipe_are_one_list(path):
    """Nor do two recipes: what changes one in place would change the other."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    factories = [make for make in vars(module).values() if getattr(make, "__factory__", False)]
    made = [make() for make in factories for _ in range(2)]
    assert made
    found = [part for recipe in made for part in lists_of(recipe)]
    assert len({id(part) for part in found}) == len(found)


def lists_of(value):
    if isinstance(value, fdl.Buildable):
        value = fdl.ordered_arguments(value)
    elif isinstance(value, (list, dict)):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from lists_of(child)


def test_a_stored_recipe_keeps_its_objects_in_lists(recipe):
    stored = yaml.safe_load(YamlSerializer().serialize(recipe))
    assert _buildable(stored) == recipe
    with pytest.raises(ConfigError, match="no nowhere.Adam here"):
        _buildable({"_target_": "nowhere.Adam"})


def test_resolved_recipe_is_complete_and_plain(recipe):
    apply_override(recipe, "optim.config.lr=0.5")
    recipe.train_on = Path("/data")
    resolved = json.loads(json.dumps(resolved_recipe(recipe)))
    adam = {"_target_": f"{__name__}.Adam", "lr": 1e-4, "name": "adam", "betas": [0.9, 0.95]}
    assert resolved == {
        "_target_": f"{__name__}.fit",
        "optim": {
            "_target_": f"{__name__}.Optim",
            "config": adam | {"lr": 0.5},
            "warmup": None,
            "tag": "x",
            "weights": {},
            "loose": None,
        },
        "callbacks": [adam, adam],
        "run_name": None,
        "train_on": "/data",
    }
