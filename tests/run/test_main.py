"""The command line: bad input ends in one line, a code and no trace on the disk.

Every config runs.
"""

from pathlib import Path
import re

from absl.testing import flagsaver
import numpy as np
import pytest

from jaxdistill import main
from jaxdistill.core import registry
from jaxdistill.engine.dispatch import epoch_order, make_dispatch
from jaxdistill.engine.resident import put_resident
from jaxdistill.errors import ConfigError
from jaxdistill.run import build, signals, trainer
from jaxdistill.run.config import apply_overrides, load_config
from tests.helpers import runs

CONFIGS = sorted((runs.ROOT / "configs").glob("*.py"))
DIGITS = runs.ROOT / "configs" / "digits_competitive.py"


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
  """Runs the command line in this process; fails if it comes to compiling the step."""

  def compiled(*args, **kwargs):
    del args, kwargs
    raise AssertionError("compiled before refusing")

  def call(*args, config=DIGITS, workdir="run"):
    argv = [f"--config={config}", f"--workdir={tmp_path / workdir}", *args]
    monkeypatch.setattr(trainer, "make_dispatch", compiled)
    with flagsaver.flagsaver():
      code = main.main(argv)
    return code, capfd.readouterr().err

  return call


def save_arrays(path, **changes):
  rng = np.random.default_rng(0)
  arrays = {
    "images_train": rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8),
    "labels_train": np.arange(64) % 100,
    "images_test": rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8),
    "labels_test": np.arange(24),
  }
  np.savez(path, **{**arrays, **changes})
  return path


@pytest.mark.parametrize(
  "args, message",
  [
    (
      ["--config.optimizer.lerning_rate=0.1"],
      "unknown key 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'?",
    ),
    (
      ["--config.lr=0.1"],
      "unknown key 'lr'; did you mean 'optimizer.learning_rate'?",
    ),
    (["--config.epochs=ten"], "epochs must be float, got 'ten'"),
    (
      ["--config.optimizer.learning_rate=-0.1"],
      "optimizer.learning_rate must be a finite number above 0, got -0.1",
    ),
    (
      ["--config.optimizer.learning_rate=nan"],
      "optimizer.learning_rate must be a finite number above 0, got nan",
    ),
    (
      ["--config.optimizer.name=adamw", "--config.optimizer.b1=1"],
      "optimizer.b1 must be at least 0 and less than 1, got 1.0",
    ),
    (
      ["--config.optimizer.schedule=setp"],
      "optimizer.schedule: there is no schedule 'setp'; did you mean 'step'?",
    ),
    (
      ["--config.method.temperature=0"],
      "method: temperature must be a finite number above 0, got 0.0",
    ),
    (
      ["--config.method.alpha=nan"],
      "method: alpha must be a finite number of at least 0, got nan",
    ),
    (
      ["--config.method.feature=stage9"],
      "method.feature 'stage9' is not a feature of convnet: it has",
    ),
    (
      ["--config.method.projector=none", "--config.cohort.convnet.width=8"],
      "method.projector is 'none', but pooled has size 32 in convnet and 64",
    ),
    (
      ["--config.batch_size=60"],
      "batch_size 60 is not divisible by 8 devices: take 56 or 64",
    ),
    (
      ["--config.batch_size=4096"],
      "batch_size 4096 is larger than the training set of 1438 images",
    ),
    (["--config.mesh.devices=9"], "mesh.devices is 9, but there are 8"),
    (
      ["--config.batch_norm_groups=3", "--config.batch_size=64"],
      "batch_size 64 cannot be split into batch_norm_groups=3 equal groups",
    ),
    (["--config.mesh.member=3"], "mesh.member is 3, but 8 devices cannot be split"),
    (
      ["--config.mesh.member=4", "--config.batch_size=33"],
      "batch_size 33 is not divisible by 2 devices: take 32 or 34",
    ),
    (
      ["--config.mesh.member=2"],
      "cohort.resnet8 has 1 members, which cannot be split into mesh.member=2",
    ),
    (
      ["--config.eval_every=often"],
      "eval_every is 'often': write '500 steps', '2 epochs' or '30%'",
    ),
    (
      ["--config.perturb.every=0"],
      "perturb.every must be a finite number above 0, got 0",
    ),
    (
      ["--config.perturb.noise.stddev=-1"],
      "perturb.noise: stddev must be a finite number above 0, got -1.0",
    ),
    (
      ["--config.perturb.ops=noise,nosie"],
      "there is no perturbation 'nosie'; did you mean 'noise'?",
    ),
    (
      ["--config.data.test_fraction=2"],
      "data: test_fraction must lie between 0 and 1, got 2.0",
    ),
    (
      ["--config.data.name=cifar.cifar100", "--config.data.dir=/nowhere"],
      "/nowhere does not exist; looked for",
    ),
    (
      ["--config.data.name=npz", "--config.data.path=/nowhere.npz"],
      "/nowhere.npz: there is no such file",
    ),
    (
      [
        "--config.cohort.convnet.model=wide_resnet.wrn",
        "--config.cohort.convnet.depth=17",
      ],
      "cohort.convnet: depth must be 6n + 4",
    ),
    (
      ["--config.method.name=kdcl.general"],
      "method kdcl.general needs examples that are not trained on: set holdout to "
      "their number",
    ),
    (
      ["--config.method.name=kdcl.general", "--config.holdout=2000"],
      "holdout 2000 takes 200 examples of class 0, of which digits has 142",
    ),
    (
      ["--config.method.name=ffsd", "--config.method.leader=boss"],
      "method: leader 'boss' is no member: members are convnet.0",
    ),
    (
      ["--config.method.name=ffsd", "--config.cohort.resnet8.members=2"],
      "method: the common students must have one architecture: stage1",
    ),
    (
      ["--config.method.name=interval"],
      "method: cycles of 10 + 30 epochs do not fit a run of 30 epochs: set epochs to "
      "40 or 80",
    ),
    (
      ["--config.method.name=byot", "--config.method.stages=stage9"],
      "method: stages: 'stage9' is not a feature of convnet: it has",
    ),
    (
      ["--config.optimizer.no_decay=bias,scael"],
      "optimizer.no_decay: no network has a parameter 'scael'; did you mean 'scale'?",
    ),
    (
      ["--config.cohort.convnet.optimizer.no_decay=scael"],
      "optimizer.no_decay: no network has a parameter 'scael'",
    ),
    (
      ["--config.cohort.convnet.init=/nowhere.safetensors"],
      "/nowhere.safetensors: there is no such file",
    ),
    (
      ["--config.cohort.resnet8.model=alexnet"],
      "cohort.resnet8: the images have 8x8 pixels, this network needs 63 a side; some "
      "take stem='cifar'",
    ),
    (
      ["--config.cohort.resnet8.model=vit.vit_s"],
      "cohort.resnet8: patch must divide the sides of the 8x8 input, got 16; resize "
      "can change them",
    ),
    (
      ["--config.cohort.resnet8.optimizer.learning_rate=-1"],
      "cohort.resnet8.optimizer.learning_rate must be a finite number above 0, got "
      "-1.0",
    ),
    (["--config.profile_steps=-1"], "profile_steps must be at least 0, got -1"),
    (["--config.compilation_cache=here"], "compilation_cache must be bool, got 'here'"),
    (["--config.views=mine"], "views must be shared or per_member, got 'mine'"),
    (["--config.patience=long"], "patience is 'long': write '500 steps', '2 epochs'"),
    (
      ["--config.select_on=holdout"],
      "select_on is 'holdout', but no examples are held out: set holdout to their",
    ),
    (["--fork=/nowhere"], "--fork: /nowhere is no workdir of a run"),
    (["--lr=1"], "command line: unknown argument '--lr=1'"),
    (
      ["--config.epochs", "1"],
      "command line: --config.epochs has no value: write --config.epochs=1",
    ),
    (
      ["--config.eval_every", "1 epoch", "--config.seed=1"],
      "command line: --config.eval_every has no value: write --config.eval_every='1 "
      "epoch'",
    ),
    (
      ["--config.optimizer.nesterov", "--config.seed=1"],
      "--config.optimizer.nesterov has no value: write "
      "--config.optimizer.nesterov=VALUE",
    ),
    (
      ["--config.cohort.resnet8=none", "--config.cohort.convnet.members=1"],
      "method competitive needs at least 2 members, the cohort has 1",
    ),
    (["--debug=perhaps"], "command line: "),
  ],
)
def test_bad_input_is_refused_in_one_line(command, tmp_path, args, message):
  code, said = command(*args)
  assert code == 2 and said.startswith("jaxdistill: error: ") and message in said
  assert said.count("\n") == 1 and "Traceback" not in said
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "config, message",
  [
    ("nowhere.py", "there is no config file 'nowhere.py'"),
    ("digits_competitve", "'digits_competitve'; did you mean 'digits_competitive'?"),
    (f"{DIGITS}:fast", "takes no argument, got 'fast'"),
    ("digits_competitive:fast", "takes no argument, got 'fast'"),
  ],
)
def test_a_bad_config_file_is_refused_in_one_line(command, tmp_path, config, message):
  code, said = command(config=config)
  assert code == 2 and message in said and said.count("\n") == 1
  assert list(tmp_path.iterdir()) == []


def test_one_member_is_not_a_competition(command, tmp_path):
  path = tmp_path / "one.py"
  path.write_text(runs.CONFIG.replace("members=2", "members=1"))
  code, said = command(config=path)
  message = "method competitive needs at least 2 members, the cohort has 1"
  assert code == 2 and message in said


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"labels_train": np.full(64, 100)},
      "label 100 of example 0 is outside 0..99",
    ),
    (
      {"labels_test": np.arange(24) - 1},
      "label -1 of example 0 is outside 0..99",
    ),
    ({"labels_train": np.arange(64) + 0.5}, "labels must be integers"),
    (
      {"images_test": np.zeros((24, 31, 32, 3), np.uint8)},
      "training images are [32, 32, 3], test images [31, 32, 3]",
    ),
    (
      {"images_train": np.zeros((64, 32, 32), np.uint8)},
      "images must be uint8[N, H, W, 3]",
    ),
    (
      {"images_train": np.zeros((63, 32, 32, 3), np.uint8)},
      "63 images but labels of shape [64]",
    ),
  ],
)
def test_bad_data_is_refused_in_one_line(command, tmp_path, changes, message):
  path = save_arrays(tmp_path / "data.npz", **changes)
  code, said = command(
    "--config.data.name=npz",
    f"--config.data.path={path}",
    "--config.data.num_classes=100",
  )
  assert code == 2 and message in said and said.count("\n") == 1
  assert list(tmp_path.iterdir()) == [path]


def test_unwritable_workdir(command, tmp_path):
  (tmp_path / "file").write_text("")
  code, said = command(workdir="file/run")
  assert code == 4 and "cannot be written" in said and said.count("\n") == 1


@pytest.mark.parametrize(
  "config, folder",
  [
    ("digits_competitive", "digits_competitive"),
    ("digits_baselines.py:dml", "digits_baselines-dml"),
    ("a:b/tiny.py", "tiny"),
  ],
)
def test_the_default_workdir_is_called_as_the_config(
  config, folder, tmp_path, monkeypatch
):
  called = []
  monkeypatch.setattr(
    trainer, "train", lambda config, workdir, **_: called.append(workdir)
  )
  monkeypatch.setattr(signals, "stop_on_signals", lambda: None)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a:b").mkdir()
  runs.write_config(tmp_path / "a:b")
  with flagsaver.flagsaver():
    assert main.main([f"--config={config}"]) == 0
  (workdir,) = called
  assert re.fullmatch(rf"runs/{folder}/[0-9]{{8}}-[0-9]{{6}}", workdir)


def test_help_lists_flags_configs_and_components(capfd):
  assert main.main(["--help"]) == 0
  said = capfd.readouterr().out
  assert "--workdir" in said
  assert f"configs: {', '.join(path.stem for path in CONFIGS)}" in said
  for kind in registry.KINDS:
    assert f"{kind}: {', '.join(registry.list_available(kind))}" in said


def test_no_config_and_debug(command, capfd):
  with flagsaver.flagsaver(config=None):
    assert main.main([]) == 2
  assert "no --config given" in capfd.readouterr().err
  with pytest.raises(ConfigError):
    command("--debug", "--config.seed=-1")


# Networks that compile quickly in the place of others; where a recipe names parameters,
# or members must differ, those of their kind.
CONVNET = ("model=small.convnet", "width=4")
RESNET = ("model=resnet_cifar.resnet8", "width=4")
TOKENS = ("dim=8", "depth=1", "resize=0")
QUICK = {
  "alexnet": RESNET,
  "ceit": ("model=ceit", *TOKENS, "heads=2"),
  "mobilenet": RESNET,
  "small": (),
  "vim": ("model=vim", *TOKENS, "state=2"),
  "vit": ("model=vit", *TOKENS, "heads=2"),
  "wide_resnet": ("depth=8", "widen=1"),
}


def quick(config, images):
  """Makes a run quick: few images and steps, one perturbation, shallow networks."""
  overrides = ["steps=2", "batch_size=16", "perturb.every=1", "mesh.devices=1"]
  if config.data.name != "digits":
    overrides += ["data.name=npz", f"data.path={images}", "data.num_classes=8"]
    # What is left to differ between recipes for one cohort; it compiles only once.
    overrides += ["augment.recipe=cifar", "epochs=100"]
  if len(config.perturb.ops) > 1:
    # Each takes its time to compile.
    overrides += [f"perturb.ops={config.perturb.ops[0]}"]
  if config.holdout:
    overrides += ["holdout=16"]
  if "independent_epochs" in config.method:
    # Whole cycles.
    overrides += ["steps=4", "batch_size=32"]
    overrides += ["method.independent_epochs=1", "method.distillation_epochs=1"]
  for name, group in config.cohort.items():
    family = group.model.partition(".")[0]
    for change in QUICK.get(family, CONVNET):
      overrides.append(f"cohort.{name}.{change}")
  apply_overrides(config, overrides)


def config_rows():
  """Every config file, and every row of those that have rows."""
  for path in CONFIGS:
    rows = getattr(registry.load_file(str(path)), "ROWS", ())
    yield pytest.param(str(path), id=path.stem, marks=pytest.mark.slow)
    for row in rows[1:]:
      yield pytest.param(
        f"{path}:{row}", id=f"{path.stem}:{row}", marks=pytest.mark.thorough
      )


def quick_experiment(path, directory):
  """The experiment of a config file, with shallow networks and few images."""
  images = save_arrays(
    directory / "data.npz",
    labels_train=np.arange(64) % 8,
    labels_test=np.arange(24) % 8,
  )
  config = load_config(path)
  quick(config, images)
  return config, build.build(config)


@pytest.mark.parametrize(
  "path", [str(path) for path in CONFIGS], ids=lambda path: Path(path).stem
)
def test_every_config_can_be_built(path, tmp_path):
  """The step is not compiled: what runs it is slow."""
  config, experiment = quick_experiment(path, tmp_path)
  assert experiment.clock.total_steps == config.steps
  assert set(experiment.state.cohort) == set(config.cohort)


@pytest.mark.parametrize("path", list(config_rows()))
def test_every_config_runs_two_steps(path, tmp_path):
  """With its method, optimiser and mix of architectures."""
  config, experiment = quick_experiment(path, tmp_path)
  mesh = experiment.mesh
  steps_per_epoch = experiment.clock.steps_per_epoch
  splits = {"train": put_resident(mesh, *experiment.dataset.train)}
  if experiment.dataset.holdout:
    splits["holdout"] = put_resident(mesh, *experiment.dataset.holdout)
  dispatch = make_dispatch(
    experiment.train_step,
    mesh,
    batch_size=config.batch_size,
    steps_per_epoch=steps_per_epoch,
    steps_per_dispatch=1,
  )

  state = experiment.init()
  for step in range(config.steps):
    if step % steps_per_epoch == 0:
      state = experiment.surveyor.run(state, splits, step // steps_per_epoch)
    order = epoch_order(state.key, 0, len(experiment.dataset.train.label))
    state, metrics = dispatch(state, splits["train"], order)
    losses = np.asarray(metrics["loss"].value())
    assert losses.shape == (len(experiment.members),) and np.isfinite(losses).all()
  assert int(state.step) == config.steps
