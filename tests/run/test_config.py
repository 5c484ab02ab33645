"""Configs: every file builds, overrides are typed, bad ones are refused in one line."""

from pathlib import Path

import pytest

from jaxdistill.errors import ConfigError
from jaxdistill.run import build
from jaxdistill.run.config import (
  check_config,
  config_differences,
  config_digest,
  load_config,
)

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
DIGITS = str(Path(__file__).parent.parent / "configs" / "digits_competitive.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_valid_and_says_how_to_run_it(path):
  load_config(str(path))
  docstring = path.read_text().split('"""')[1]
  assert f"python -m jaxdistill.main --config=configs/{path.name}" in docstring


def test_the_papers_recipe():
  config = load_config(str(Path(DIGITS).with_name("cifar100_competitive.py")))
  assert config.batch_size == 128 and config.method.alpha == config.method.beta == 1
  assert config.cohort.resnet32.to_dict() == {
    "model": "resnet_cifar.resnet32",
    "members": 2,
    "init": "",
    "optimizer": {},
    "width": 16,
  }
  optimizer = config.optimizer
  assert (
    optimizer.name,
    optimizer.learning_rate,
    optimizer.momentum,
    optimizer.nesterov,
  ) == ("sgd", 0.1, 0.9, True)
  assert optimizer.schedule == "step" and optimizer.weight_decay > 0


def test_overrides_take_the_type_of_the_key():
  config = load_config(
    DIGITS,
    [
      "epochs=2",
      "batch_size=32",
      "optimizer.nesterov=false",
      "method.teachers=all_better",
      "optimizer.milestones=50%,75%",
      "perturb.resized_crop.scale=(0.2, 0.4)",
      "cohort.convnet.members=3",
      "perturb.ops=noise",
      "optimizer.learning_rate=1e-2",
    ],
  )
  assert config.epochs == 2.0 and isinstance(config.epochs, float)
  assert (
    config.batch_size == 32
    and config.optimizer.nesterov is False
    and config.cohort.convnet.members == 3
  )
  assert config.optimizer.milestones == ("50%", "75%") and config.perturb.ops == (
    "noise",
  )
  assert (
    config.perturb.resized_crop.scale == (0.2, 0.4)
    and config.optimizer.learning_rate == 0.01
  )


def test_swapping_a_component_brings_its_keys_and_keeps_shared_values():
  config = load_config(
    DIGITS,
    [
      "method.reduce=sum",
      "method.temperature=3",
      "method.name=dml",
      "cohort.convnet.model=resnet_cifar.resnet20",
    ],
  )
  assert config.method.to_dict() == {
    "name": "dml",
    "weight": 1.0,
    "temperature": 3.0,
    "reduce": "sum",
    "target": "pairwise",
  }
  assert (
    config.cohort.convnet.model == "resnet_cifar.resnet20"
    and config.cohort.convnet.members == 2
  )


def test_a_group_may_have_an_optimizer_of_its_own():
  config = load_config(
    DIGITS,
    [
      "cohort.convnet.optimizer.learning_rate=1",
      "cohort.convnet.model=resnet_cifar.resnet20",
      "cohort.convnet.optimizer.name=adamw",
      "cohort.convnet.init=x",
    ],
  )
  assert config.cohort.convnet.optimizer.to_dict() == {
    "learning_rate": 1.0,
    "name": "adamw",
  }
  assert (
    config.cohort.convnet.init == "x"
    and config.cohort.resnet8.optimizer.to_dict() == {}
  )
  rates = {
    spec.name: spec.tx
    for spec in build._specs(config, lambda **keys: keys.get("learning_rate", 0.05), 10)
  }
  assert rates == {"convnet": 1.0, "resnet8": 0.05}


@pytest.mark.parametrize(
  "assignment, message",
  [
    ("cohort.convnet.optimizer.rate=1", "unknown key 'cohort.convnet.optimizer.rate'"),
    (
      "cohort.convnet.optimizer.learning_rate=fast",
      "cohort.convnet.optimizer.learning_rate must be float, got 'fast'",
    ),
    ("label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1.0"),
    ("ema_decay=-0.1", r"ema_decay must be in \[0, 1\), got -0.1"),
    ("lerning_rate=1", "unknown key 'lerning_rate'"),
    (
      "optimizer.lerning_rate=1",
      "unknown key 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'",
    ),
    ("method.alhpa=1", "unknown key 'method.alhpa'; did you mean 'method.alpha'"),
    ("methd.alpha=1", "unknown key 'methd.alpha'; did you mean 'method.alpha'"),
    ("method=dml", "unknown key 'method'"),
    ("epochs.x=1", "unknown key 'epochs.x'"),
    ("batch_size=many", "batch_size must be int, got 'many'"),
    ("batch_size=1.5", "batch_size must be int, got 1.5"),
    ("optimizer.nesterov=1", "optimizer.nesterov must be bool, got 1"),
    ("optimizer.learning_rate=True", "optimizer.learning_rate must be float, got True"),
    ("perturb.resized_crop.scale=a,b", "perturb.resized_crop.scale must be float"),
    ("seed=-1", r"seed must be in 0..2\^31-1, got -1"),
    ("seed=1099511627776", "seed must be in"),
    ("epochs=-1", "epochs must be a finite number above 0, got -1.0"),
    ("epochs=nan", "epochs must be a finite number above 0, got nan"),
    ("dtype=float16", "dtype must be float32 or bfloat16, got 'float16'"),
    ("update_order=parallel", "update_order must be simultaneous or sequential"),
    ("cohort.convnet.members=0", "cohort.convnet.members must be at least 1, got 0"),
    ("method.name=dlm", "there is no method 'dlm'; did you mean 'dml'"),
    (
      "cohort.convnet.model=resnet_cifar.resnet33",
      "there is no model 'resnet_cifar.resnet33'; did you mean 'resnet_cifar.resnet32'",
    ),
    ("seed", "'seed' is not of the form key=value"),
  ],
)
def test_bad_overrides_are_refused(assignment, message):
  with pytest.raises(ConfigError, match=message):
    load_config(DIGITS, [assignment])


def test_all_problems_are_told_at_once():
  config = load_config(DIGITS)
  config.seed, config.batch_size = -1, 0
  with pytest.raises(ConfigError, match="seed must be .*; batch_size must be"):
    check_config(config)


def test_keys_of_a_config_made_in_python_are_checked():
  config = load_config(DIGITS)
  config.optimizer.lr = 0.1
  with pytest.raises(ConfigError, match="unknown key 'optimizer.lr'"):
    check_config(config)
  del config.optimizer.lr
  with config.ignore_type():
    config.epochs = "ten"
  with pytest.raises(ConfigError, match="epochs must be float, got 'ten'"):
    check_config(config)


def test_missing_config_file_and_missing_function(tmp_path):
  with pytest.raises(ConfigError, match="there is no config file 'nowhere.py'"):
    load_config("nowhere.py")
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(ConfigError, match=r"has no get_config\(\)"):
    load_config(str(tmp_path / "empty.py"))


def test_digest_and_differences_ignore_harmless_keys():
  plain = load_config(DIGITS)
  harmless = load_config(DIGITS, ["log_every=5 steps", "checkpoint_every=2 epochs"])
  other = load_config(DIGITS, ["seed=1", "method.alpha=0.5"])
  assert config_digest(plain) == config_digest(harmless) != config_digest(other)
  assert config_differences(plain.to_dict(), harmless.to_dict()) == []
  assert config_differences(plain.to_dict(), other.to_dict()) == [
    "method.alpha: there 1.0, here 0.5",
    "seed: there 0, here 1",
  ]
