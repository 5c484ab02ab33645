"""Configs: every file and its rows are valid; checks, differences and digests."""

import json

import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.run import sections
from jaxdistill.run.build import build
from jaxdistill.run.config import (
  HARMLESS,
  KEYS,
  check_config,
  config_differences,
  config_digest,
  default,
  flatten,
  load_config,
)
from jaxdistill.run.config_files import find_config, packaged_configs
from jaxdistill.run.renamed import upgraded
from tests.helpers import runs

CONFIGS = sorted((runs.ROOT / "configs").glob("*.py"))
DIGITS = str(runs.ROOT / "configs" / "digits_competitive.py")
LAB = "tests.helpers.my_lab"


def rows(path):
  return getattr(registry.load_file(str(path)), "ROWS", ())


ROWS = [f"{path}:{row}" for path in CONFIGS for row in rows(path)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_says_how_to_run_it(path):
  config = load_config(str(path))
  docstring = path.read_text().split('"""')[1]
  command = f"python -m jaxdistill.main --config=configs/{path.name}"
  assert command in docstring
  if rows(path):
    # The first row is the default.
    assert load_config(f"{path}:{rows(path)[0]}").to_dict() == config.to_dict()
    with pytest.raises(ConfigError, match="must be one of .*, got 'no_such_row'$"):
      load_config(f"{path}:no_such_row")
  else:
    with pytest.raises(ConfigError, match="takes no argument, got 'row'$"):
      load_config(f"{path}:row")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rpartition("/")[2])
def test_every_row_is_valid(row):
  load_config(row)


def test_rows_differ():
  for path in CONFIGS:
    digests = {config_digest(load_config(f"{path}:{row}")) for row in rows(path)}
    assert len(digests) == len(rows(path)), path


def test_the_papers_recipe():
  config = load_config(str(runs.ROOT / "configs" / "cifar100_competitive.py"))
  assert config.batch_size == 128 and config.method.alpha == config.method.beta == 1
  assert config.cohort.resnet32.to_dict() == {
    "model": "resnet_cifar.resnet32",
    "members": 2,
    "init": "",
    "mean": (),
    "std": (),
    "optimizer": {},
    "width": 16,
  }
  assert config.optimizer.to_dict() == {
    "name": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "no_decay": (),
    "clip_norm": 0.0,
    "accumulate": 1,
    "learning_rate_per": 0,
    "warmup": "0 steps",
    "schedule": "step",
    "milestones": ("30%", "60%", "90%"),
    "decay": 0.1,
  }
  assert config.perturb.every == 1 and len(config.perturb.ops) == 9


@pytest.mark.parametrize(
  "name, every",
  [
    ("cifar10_competitive", 1),
    ("cifar100_competitive_transformers", 1),
    ("imagenet_competitive_transformers", 1),
    ("cifar100_competitive_released", 10),
  ],
)
def test_the_papers_text_perturbs_in_every_step_and_its_code_in_every_tenth(
  name, every
):
  config = load_config(str(runs.ROOT / "configs" / f"{name}.py"))
  assert config.perturb.every == every


# Arguments of config files.

TAKES_ONE = "\n\ndef get_config(argument):\n  return make(argument)\n"


def write(path, tail="\n\ndef get_config():\n  return make('0')\n"):
  source = runs.CONFIG.replace("def get_config():", "def make(seed):")
  source = source.replace(
    "  return config", "  config.seed = int(seed)\n  return config"
  )
  path.write_text(source + tail)
  return path


def test_the_text_after_the_colon_is_the_argument(tmp_path):
  path = write(tmp_path / "one.py", TAKES_ONE)
  assert load_config(f"{path}:7").seed == 7
  with pytest.raises(ConfigError, match="missing a required argument: 'argument'"):
    load_config(str(path))
  write(path, TAKES_ONE.replace("argument)", "argument='3')", 1))
  assert load_config(str(path)).seed == 3 and load_config(f"{path}:4").seed == 4


def test_a_colon_may_belong_to_the_name_of_a_folder(tmp_path):
  folder = tmp_path / "2026:11"
  folder.mkdir()
  source = TAKES_ONE.replace("argument)", "argument='3')", 1)
  path = write(folder / "one.py", source)
  assert load_config(str(path)).seed == 3
  assert load_config(f"{path}:5").seed == 5
  # What exists as such is meant, also where a part of it exists too.
  (folder / "one.py:5").mkdir()
  within = write(folder / "one.py:5" / "two.py", source.replace("'3'", "'4'"))
  assert load_config(str(within)).seed == 4


@pytest.mark.parametrize(
  "tail, argument, message",
  [
    ("", "", r"config file '.*one.py' has no get_config\(\)$"),
    ("\n\ndef get_config():\n  pass\n", "", "get_config returned NoneType, not a conf"),
    ("\n\ndef get_config():\n  pass\n", ":a", "one.py' takes no argument, got 'a'$"),
    (
      "\n\ndef get_config(row='a'):\n  recipes.require_row(row, ['a', 'b'])\n",
      ":c",
      "one.py': argument must be one of a, b, got 'c'$",
    ),
  ],
)
def test_what_is_wrong_with_a_config_file_is_refused(tmp_path, tail, argument, message):
  path = write(tmp_path / "one.py", tail)
  with pytest.raises(ConfigError, match=message):
    load_config(f"{path}{argument}")


@pytest.mark.parametrize("path", ["nowhere.py", "nowhere.py:a"])
def test_a_config_file_that_is_not_there(path):
  message = "there is no config file 'nowhere.py'; python -m jaxdistill configs lists"
  with pytest.raises(ConfigError, match=message):
    load_config(path)


@pytest.mark.parametrize(
  "path, meant",
  [
    ("digits_competitve", "digits_competitive"),
    ("digits_competitve:a", "digits_competitive"),
    ("configs/digits_competitive.py", "digits_competitive"),
    ("my_expriment.py", "my_experiment.py"),
    ("below/my_expriment", "below/my_experiment.py"),
  ],
)
def test_the_nearest_config_file_is_suggested(path, meant, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "below").mkdir()
  write(tmp_path / "my_experiment.py")
  write(tmp_path / "below" / "my_experiment.py")
  with pytest.raises(ConfigError, match=rf"did you mean '{meant}'\?$"):
    load_config(path)


def test_configs_come_with_the_package(tmp_path, monkeypatch):
  assert list(packaged_configs()) == [path.stem for path in CONFIGS]
  monkeypatch.chdir(tmp_path)
  plain = load_config("digits_competitive")
  assert plain.to_dict() == load_config(DIGITS).to_dict()
  assert load_config("digits_competitive.py").to_dict() == plain.to_dict()
  for text in ("digits_baselines:dml", "digits_baselines.py:dml"):
    assert load_config(text).method.name == "dml"
  # A file of that name is meant where it is.
  write(tmp_path / "digits_competitive.py")
  assert load_config("digits_competitive.py").cohort.convnet.width == 4
  assert load_config("digits_competitive").to_dict() == plain.to_dict()


@pytest.mark.parametrize(
  "text, name",
  [
    ("digits_competitive", "digits_competitive"),
    (f"{DIGITS}:resnet32,dml", "digits_competitive-resnet32-dml"),
    (f"{DIGITS}:../a b", "digits_competitive-..-a-b"),
  ],
)
def test_a_folder_of_runs_is_called_as_the_file_and_its_argument(text, name):
  assert find_config(text).run_name == name


# Checks.


def test_the_table_is_every_config_beside_its_components():
  config = default("digits", "independent")
  of_components = sections.section_keys(config)
  assert flatten(config).keys() == {key.name for key in KEYS} | of_components.keys()
  for key in KEYS:
    assert key.meaning and not key.name.endswith("."), key
    assert flatten(config)[key.name] == key.default
    assert key.allowed.check(key.default)
  assert {key for key in HARMLESS if key != "data.dir"} <= {key.name for key in KEYS}


@pytest.mark.parametrize(
  "assignment, message",
  [
    ("label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1.0"),
    ("ema_decay=-0.1", r"ema_decay must be in \[0, 1\), got -0.1"),
    ("seed=-1", r"seed must be in 0..2\^31-1, got -1"),
    ("seed=1099511627776", r"seed must be in 0..2\^31-1, got 1099511627776"),
    ("batch_size=0", "batch_size must be at least 1, got 0"),
    ("steps=-1", "steps must be at least 0, got -1"),
    ("epochs=-1", "epochs must be a finite number above 0, got -1.0"),
    ("epochs=nan", "epochs must be a finite number above 0, got nan"),
    ("epochs=inf", "epochs must be a finite number above 0, got inf"),
    ("dtype=float16", "dtype must be float32 or bfloat16, got 'float16'"),
    ("matmul_precision=half", "matmul_precision must be default, tensorfloat32 or "),
    ("mapping=scan", "mapping must be auto, vmap, unroll or plain, got 'scan'"),
    ("update_order=parallel", "update_order must be simultaneous or sequential, got"),
    ("perturb.space=hsv", "perturb.space must be pixel or normalized, got 'hsv'"),
    ("cohort.convnet.members=0", "cohort.convnet.members must be at least 1, got 0"),
  ],
)
def test_values_out_of_range_are_refused(assignment, message):
  with pytest.raises(ConfigError, match=f"^{message}"):
    load_config(DIGITS, [assignment])


@pytest.mark.parametrize(
  "line, message",
  [
    (
      "config.optimizer.schedule = 'step'",
      "optimizer names sgd and step, but has final and lacks milestones, decay: in a "
      "config file write config.optimizer = optimizer('sgd', 'step'), which brings the "
      "keys along",
    ),
    (
      "config.method.name = 'dml'",
      "method names dml, but has alpha, beta, kl_view and 5 more and lacks weight, "
      "reduce, target and 1 more: in a config file write config.method = "
      "component('methods', 'dml'), which brings the keys along",
    ),
    (
      "config.cohort.convnet.model = 'alexnet'",
      "cohort.convnet names alexnet, but has width and lacks stem, dropout: in a "
      "config file write config.cohort.convnet = group('alexnet'), which brings the "
      "keys along",
    ),
  ],
)
def test_a_component_named_by_hand_is_told_in_one_line(line, message, tmp_path):
  path = tmp_path / "by_hand.py"
  path.write_text(runs.CONFIG.replace("  return", f"  {line}\n  return"))
  with pytest.raises(ConfigError) as caught:
    load_config(str(path))
  assert str(caught.value) == message


def test_epochs_do_not_count_beside_steps():
  assert load_config(DIGITS, ["epochs=0", "steps=5"]).steps == 5


def test_all_problems_are_told_at_once():
  config = load_config(DIGITS)
  config.seed = -1
  config.batch_size = 0
  with pytest.raises(ConfigError, match="^batch_size must be .*; seed must be [^;]*$"):
    check_config(config)


def test_keys_of_a_config_made_in_python_are_checked():
  config = load_config(DIGITS)
  config.optimizer.lr = 0.1
  del config.batch_size
  with config.ignore_type():
    config.epochs = "ten"
  with pytest.raises(ConfigError) as caught:
    check_config(config)
  problems = str(caught.value).split("; ")
  assert set(problems) == {
    "unknown key 'optimizer.lr'",
    "did you mean 'optimizer.learning_rate'?",
    "epochs must be float, got 'ten' (str)",
    "batch_size is missing",
  }


@pytest.mark.parametrize(
  "section", ["data", "method", "optimizer", "perturb", "cohort"]
)
def test_a_section_that_is_missing_is_named(section):
  config = load_config(DIGITS)
  del config[section]
  with pytest.raises(ConfigError, match=f"^{section}.* is missing"):
    check_config(config)


def test_a_cohort_without_groups_is_refused():
  with pytest.raises(ConfigError, match="^cohort needs at least one group"):
    check_config(default("digits", "independent"))


# Differences.


def saved(config):
  """What `config.json` holds."""
  return json.loads(json.dumps(config.to_dict()))


def test_harmless_keys_are_no_difference():
  plain = load_config(DIGITS)
  harmless = load_config(
    DIGITS,
    [
      "log_every=5 steps",
      "checkpoint_every=2 epochs",
      "compilation_cache=False",
      "profile_steps=3",
    ],
  )
  other = load_config(DIGITS, ["seed=1", "method.alpha=0.5"])
  assert config_digest(plain) == config_digest(harmless) != config_digest(other)
  assert config_differences(saved(plain), harmless) == []
  assert config_differences(saved(plain), other) == [
    "method.alpha: there 1.0, here 0.5",
    "seed: there 0, here 1",
  ]


def test_a_key_that_one_side_does_not_have_is_equal_at_its_default():
  new = load_config(DIGITS)
  old = saved(new)
  del old["method"]["alpha"], old["views"], old["perturb"]["noise"]["stddev"]
  del old["cohort"]["convnet"]["width"], old["optimizer"]["accumulate"]
  assert config_differences(old, new) == []
  assert config_differences(saved(new), sections.ConfigDict(old)) == []
  assignments = ["method.alpha=0.5", "perturb.noise.stddev=0.3"]
  assert config_differences(old, load_config(DIGITS, assignments)) == [
    "method.alpha: there 'absent', here 0.5",
    "perturb.noise.stddev: there 'absent', here 0.3",
  ]


def test_keys_of_components_that_are_not_in_use_are_no_difference():
  new = load_config(DIGITS)
  old = saved(new)
  old["perturb"]["blur"] = {"sigma": [1.0, 2.0]}
  old["optimizer"]["milestones"] = ["50%"]
  assert config_differences(old, new) == []
  old["perturb"]["haze"] = {"sigma": 1.0}
  old["method"]["zeta"] = 1.0
  assert config_differences(old, new) == [
    "method.zeta: there 1.0, here 'absent'",
    "perturb.haze.sigma: there 1.0, here 'absent'",
  ]


def test_another_component_is_one_difference():
  other = load_config(DIGITS, ["method.name=dml", "optimizer.name=adamw"])
  assert config_differences(saved(load_config(DIGITS)), other) == [
    "method.name: there 'competitive', here 'dml'",
    "optimizer.name: there 'sgd', here 'adamw'",
  ]


def test_a_group_that_names_what_the_run_has_is_no_difference():
  plain = load_config(DIGITS)
  named = load_config(DIGITS, ["cohort.convnet.optimizer.learning_rate=0.05"])
  assert config_differences(saved(plain), named) == []
  other = load_config(DIGITS, ["cohort.convnet.optimizer.learning_rate=0.1"])
  assert config_differences(saved(plain), other) == [
    "cohort.convnet.optimizer.learning_rate: there 'absent', here 0.1"
  ]


@pytest.mark.parametrize(
  "old, new",
  [
    (
      {"padding": 1, "flip": False, "mode": "constant", "cutout": 0},
      [],
    ),
    (
      {"padding": 2, "flip": True, "mode": "reflect", "cutout": 8},
      [
        "augment.ops=pad_crop,hflip,cutout",
        "augment.pad_crop.padding=2",
        "augment.pad_crop.mode=reflect",
        "augment.cutout.side=8",
      ],
    ),
  ],
)
def test_a_run_from_before_augmentation_was_a_pool_goes_on(old, new):
  config = load_config(DIGITS, new)
  before = saved(config) | {"augment": old}
  assert config_differences(upgraded(before), config) == []
  other = load_config(DIGITS, [*new, "augment.pad_crop.padding=3"])
  (difference,) = config_differences(upgraded(before), other)
  assert difference.startswith("augment.pad_crop.padding: ")
  # What this version writes stays.
  assert upgraded(saved(config)) == saved(config)


@pytest.mark.parametrize(
  "key, now",
  [
    ("augment.padding=2", "it is augment.pad_crop.padding now"),
    ("augment.flip=False", "it is the operation hflip of augment.ops now"),
    ("augment.cutout=8", "add cutout to augment.ops and set augment.cutout.side"),
  ],
)
def test_a_key_of_an_earlier_version_says_what_stands_for_it(key, now):
  name = key.partition("=")[0]
  with pytest.raises(ConfigError, match=f"^unknown key '{name}': {now}$"):
    load_config(DIGITS, [key])


def test_a_recipe_of_augmentation_takes_the_place_of_all_operations():
  config = load_config(DIGITS, ["augment.recipe=deit", "augment.mix.switch=0.25"])
  assert config.augment.ops == tuple(RECIPES["deit"])
  assert config.augment.mix.switch == 0.25
  assert config.augment.random_resized_crop.interpolation == "cubic"
  config = load_config(DIGITS, ["augment.ops=pad_crop,cutout(side=3)"])
  assert config.augment.pad_crop.padding == 1
  assert config.augment.cutout.side == 3


def test_a_component_that_cannot_be_found_any_more_is_a_difference():
  new = load_config(DIGITS)
  old = saved(new)
  old["method"]["name"] = "gone:method"
  assert "method.name: there 'gone:method', here 'competitive'" in config_differences(
    old, new
  )


def test_a_new_perturbation_or_optimizer_changes_no_config(monkeypatch):
  before = load_config(DIGITS)
  for kind in ("augment", "perturb", "optimizers", "schedules"):
    builtin = dict(registry._builtin(kind))
    builtin["brand_new"] = next(iter(builtin.values()))
    found = {**{k: registry._builtin(k) for k in registry.KINDS}, kind: builtin}
    with monkeypatch.context() as patch:
      patch.setattr(registry, "_builtin", found.__getitem__)
      assert "brand_new" in registry.list_available(kind)
      assert load_config(DIGITS).to_dict() == before.to_dict()


# What config files and components of a user may do.


@pytest.mark.parametrize(
  "source, message",
  [
    ("x = 1\ndef get_config(:\n", r"one.py', line 2: SyntaxError: invalid syntax"),
    ("\n\nimport no_such_module\n", "one.py', line 3: ModuleNotFoundError: No module"),
    ("raise SystemExit(3)\n", "one.py', line 1: SystemExit: 3: --debug shows where$"),
    ("x = '\0'\n", "one.py'.*: SyntaxError: source code .* null bytes"),
    ("get_config = 3\n", "one.py': get_config is not a function$"),
    ("def get_config():\n\n  1 / 0\n", "one.py', line 3: ZeroDivisionError: division"),
    ("def get_config(a, *, b):\n  pass\n", "one.py': missing a required argument: 'a'"),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config():\n  return ConfigDict({1: 2, 'a': 3})\n",
      "one.py': what get_config returned cannot be read: TypeError",
    ),
  ],
)
def test_errors_of_a_config_file_have_their_line(tmp_path, source, message):
  path = tmp_path / "one.py"
  path.write_text(source)
  with pytest.raises(ConfigError, match=message):
    load_config(str(path))


@pytest.mark.parametrize(
  "key, value, message",
  # Python does not write out integers as long as the first one.
  [
    ("seed", 2**20000, "seed must be within 64 bits, got an integer of 20001 bits"),
    ("batch_size", 2**40, "batch_size must be at most 2147483647, got"),
    ("epochs", 1e300, r"epochs must be within 3.4e\+38, the range of float32"),
    ("views", b"x", "views must be text, a number, a bool or a list of them, got byt"),
    ("optimizer", {"a": {1}}, "optimizer.name is missing"),
    ("augment", {"padding": 10**6}, "augment.ops is missing"),
  ],
  ids=lambda part: part if isinstance(part, str) else "",
)
def test_values_that_no_run_can_hold_are_refused(key, value, message):
  config = load_config(DIGITS)
  with config.ignore_type():
    config[key] = value
  with pytest.raises(ConfigError, match=message):
    check_config(config)


@pytest.mark.parametrize(
  "assignments, message",
  [
    (["epochs=1e30"], "the run has 2.2e.31 steps, the most are 2147483647"),
    (["steps=2147483648"], "steps must be at most 2147483647, got 2147483648"),
    (["log_every=9999999999 steps"], "log_every is .*: the most are 2147483647 steps"),
  ],
)
def test_more_steps_than_can_be_counted_are_refused(assignments, message):
  with pytest.raises(ConfigError, match=message):
    build(load_config(DIGITS, [*assignments, "mesh.devices=1"]))


def test_more_members_than_anybody_means_are_refused():
  config = load_config(DIGITS, ["cohort.convnet.members=1000000000"])
  with pytest.raises(ConfigError, match="members, the most are 4096: lower cohort"):
    build(config)


@pytest.mark.parametrize(
  "assignment, message",
  [
    ("method.name=math:pi", "method 'math:pi' is float, not a function"),
    ("method.name=builtins:dict", "'builtins:dict' does not tell its arguments"),
    ("data.name=:", "data set ':' cannot be imported: ValueError: Empty module name"),
    ("data.name=.:x", "data set '.:x' cannot be imported: TypeError"),
    (f"method.name={LAB}:no_such", "cannot be imported: AttributeError"),
    ("perturb.ops=" + "[" * 3000, "there is no perturbation"),
    ("epochs=" + "-" * 3000 + "1", "epochs must be float, got "),
  ],
)
def test_odd_names_and_texts_are_refused(assignment, message):
  with pytest.raises(ConfigError, match=message):
    load_config(DIGITS, [assignment])


def test_a_keyword_called_like_a_key_of_the_section_is_refused(tmp_path, monkeypatch):
  (tmp_path / "called_name.py").write_text("def f(*, name: str = 'x'):\n  pass\n")
  monkeypatch.syspath_prepend(tmp_path)
  for assignment in ("method.name=called_name:f", "cohort.convnet.model=called_name:f"):
    with pytest.raises(ConfigError, match="has a keyword 'name', but that is another"):
      load_config(DIGITS, [assignment])
