"""Overrides are typed, bring the keys of components, and are refused in one line."""

import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.run import build
from jaxdistill.run.config import load_config
from jaxdistill.run.overrides import parse
from tests.helpers import runs

DIGITS = str(runs.ROOT / "configs" / "digits_competitive.py")
LAB = "tests.helpers.my_lab"


def load(*assignments):
  return load_config(DIGITS, assignments)


def test_overrides_take_the_type_of_the_key():
  config = load(
    "epochs=2",
    "batch_size=32",
    "cohort.convnet.members=3",
    "method.teachers=all_better",
    "optimizer.learning_rate=1e-2",
    "optimizer.milestones=50%,75%",
    "optimizer.nesterov=false",
    "optimizer.schedule=step",
    "perturb.resized_crop.scale=(0.2, 0.4)",
  )
  assert config.epochs == 2.0 and isinstance(config.epochs, float)
  assert config.batch_size == 32 and config.cohort.convnet.members == 3
  assert config.method.teachers == "all_better"
  assert config.optimizer.learning_rate == 0.01
  assert config.optimizer.milestones == ("50%", "75%")
  assert config.optimizer.nesterov is False
  assert config.perturb.resized_crop.scale == (0.2, 0.4)


@pytest.mark.parametrize(
  "text, example, value",
  [
    ("7", 0, 7),
    ("7", 0.0, 7.0),
    ("inf", 0.0, float("inf")),
    ("TRUE", False, True),
    ("7", "", "7"),
    ("a, b", (), ("a", "b")),
    ("a", ("b",), ("a",)),
    ("", ("b",), ()),
    ("1,2", (0.5, 1.5), (1.0, 2.0)),
    ("('a', 'b')", ("c",), ("a", "b")),
    ("text", None, "text"),
    ("1.5", None, 1.5),
  ],
)
def test_a_text_becomes_a_value_of_the_keys_type(text, example, value):
  found = parse("key", text, example)
  assert found == value and type(found) is type(value)


def test_another_component_brings_its_keys_and_keeps_shared_values():
  config = load(
    "method.reduce=sum",
    "method.temperature=3",
    "method.name=dml",
    "cohort.convnet.model=resnet_cifar.resnet20",
  )
  assert config.method.to_dict() == {
    "name": "dml",
    "weight": 1.0,
    "temperature": 3.0,
    "reduce": "sum",
    "target": "pairwise",
    "feature_reduce": "mean",
    "feature_view": "auto",
    "feature": "pooled",
    "projector": "auto",
    # The weight of another method's term is not taken over.
    "feature_weight": 0.0,
  }
  assert config.cohort.convnet.model == "resnet_cifar.resnet20"
  assert config.cohort.convnet.members == 2


def test_another_network_starts_from_random_weights(tmp_path):
  path = tmp_path / "init.py"
  path.write_text(runs.CONFIG.replace("width=4", "width=4, init='weights'"))
  assert load_config(str(path)).cohort.convnet.init == "weights"
  network = "cohort.convnet.model=resnet_cifar.resnet20"
  assert load_config(str(path), [network]).cohort.convnet.init == ""
  both = load_config(str(path), ["cohort.convnet.init=x", network])
  assert both.cohort.convnet.init == "x"


def test_an_optimizer_and_a_schedule_bring_their_keys():
  config = load(
    "optimizer.b1=0.8",
    "optimizer.name=lion",
    "optimizer.schedule=exponential",
    "optimizer.decay=0.9",
  )
  section = config.optimizer
  assert (section.name, section.b1, section.b2) == ("lion", 0.8, 0.99)
  assert (section.schedule, section.decay, section.every) == (
    "exponential",
    0.9,
    "1 epoch",
  )
  # What goes with every optimiser stays, what was SGD's or the cosine's goes.
  assert section.learning_rate == 0.05 and section.warmup == "1 epoch"
  assert not {"momentum", "nesterov", "final", "milestones"} & set(section)


def test_a_group_may_have_an_optimizer_of_its_own():
  config = load(
    "cohort.convnet.optimizer.learning_rate=1",
    "cohort.convnet.optimizer.b1=0.8",
    "cohort.convnet.optimizer.name=adamw",
    "cohort.convnet.model=resnet_cifar.resnet20",
    "cohort.convnet.init=x",
  )
  assert config.cohort.convnet.optimizer.to_dict() == {
    "learning_rate": 1.0,
    "b1": 0.8,
    "name": "adamw",
  }
  assert config.cohort.convnet.init == "x"
  assert config.cohort.resnet8.optimizer.to_dict() == {}


def test_keys_that_a_groups_optimizer_does_not_have_any_more_are_dropped(tmp_path):
  line = "config.cohort.convnet = "
  source = runs.CONFIG.replace(
    line, 'config.optimizer = optimizer("adamw")\n  ' + line
  ).replace("width=4", 'width=4, optimizer={"b1": 0.5, "warmup": "2 steps"}')
  source = source.replace("import group", "import optimizer, group")
  path = tmp_path / "own.py"
  path.write_text(source)
  assert load_config(str(path)).cohort.convnet.optimizer.b1 == 0.5
  for key in ("optimizer.name", "cohort.convnet.optimizer.name"):
    own = load_config(str(path), [f"{key}=sgd"]).cohort.convnet.optimizer
    assert "b1" not in own and own.warmup == "2 steps"


def test_a_group_is_added_by_its_model():
  config = load(
    # Its other keys may come before it.
    "cohort.new.width=8",
    "cohort.new.optimizer.b1=0.8",
    "cohort.new.optimizer.name=adamw",
    "cohort.new.model=resnet_cifar.resnet20",
  )
  assert config.cohort.new.to_dict() == {
    "model": "resnet_cifar.resnet20",
    "members": 1,
    "init": "",
    "optimizer": {"name": "adamw", "b1": 0.8},
    "mean": (),
    "std": (),
    "width": 8,
  }
  assert set(config.cohort) == {"convnet", "resnet8", "new"}
  # Those that the config file has keep their keys.
  assert config.cohort.convnet.members == 2


def test_a_group_is_taken_out_by_none():
  config = load("cohort.resnet8=none")
  assert set(config.cohort) == {"convnet"}
  both = load("cohort.new.model=small.convnet", "cohort.convnet=None")
  assert set(both.cohort) == {"resnet8", "new"}


def test_the_pool_brings_the_strengths_of_its_operations(tmp_path):
  path = tmp_path / "noisy.py"
  strong = 'every=2, noise={"stddev": 0.3}'
  path.write_text(runs.CONFIG.replace("every=2", strong))
  config = load_config(str(path), ["perturb.ops=noise,blur"])
  assert config.perturb.ops == ("noise", "blur") and config.perturb.every == 2
  # What was in the pool keeps its strengths.
  assert config.perturb.noise.stddev == 0.3
  assert config.perturb.blur.to_dict() == registry.defaults("perturb", "blur")
  assert "mixup" not in config.perturb
  assert load("perturb.ops=").perturb.ops == ()
  assert load("perturb.ops=('noise', 'blur')").perturb.ops == ("noise", "blur")


def test_operations_may_have_keywords():
  config = load(
    f"perturb.ops=mixup,resized_crop(scale=(0.1, 0.2)), {LAB}:fog(density=0.3)",
    "perturb.resized_crop.ratio=1,2",
  )
  assert config.perturb.ops == ("mixup", "resized_crop", f"{LAB}:fog")
  assert config.perturb.resized_crop.scale == (0.1, 0.2)
  assert config.perturb.resized_crop.ratio == (1.0, 2.0)
  assert config.perturb.fog.to_dict() == {"density": 0.3}
  assert (
    load(f"perturb.ops={LAB}:fog", "perturb.fog.density=1").perturb.fog.density == 1
  )


@pytest.mark.parametrize("order", [1, -1])
def test_required_keywords_of_components_of_ones_own_are_given_beside_their_names(
  order,
):
  assignments = [
    f"data.name={LAB}:folder",
    "data.dir=7",
    "data.shape=16,16",
    f"method.name={LAB}:consensus",
    "method.strictness=2",
    f"cohort.convnet.model={LAB}:network",
    "cohort.convnet.depth=3",
  ]
  config = load(*assignments[::order])
  assert config.data.dir == "7" and config.data.shape == (16, 16)
  assert config.method.strictness == 2.0
  assert isinstance(config.method.strictness, float)
  assert config.cohort.convnet.depth == 3
  build.build(config)


@pytest.mark.parametrize(
  "name, missing",
  [
    (f"data.name={LAB}:folder", "data.dir"),
    (f"method.name={LAB}:consensus", "method.strictness"),
    (f"cohort.convnet.model={LAB}:network", "cohort.convnet.depth"),
  ],
)
def test_a_required_keyword_that_is_not_given_is_named(name, missing):
  message = rf"^{missing} is missing and has no default: set --config.{missing}=\.\.\.$"
  with pytest.raises(ConfigError, match=message):
    load(name)


@pytest.mark.parametrize(
  "assignment, message",
  [
    ("seed", "'seed' is not of the form key=value"),
    # Unknown keys.
    ("lerning_rate=1", "'lerning_rate'; did you mean 'optimizer.learning_rate'?"),
    ("lr=1", "unknown key 'lr'; did you mean 'optimizer.learning_rate'?"),
    ("optimizer.lr=1", "did you mean 'optimizer.learning_rate'?"),
    ("cohort.convnet.optimizer.lr=1", "'cohort.convnet.optimizer.learning_rate'?"),
    ("wd=1", "did you mean 'optimizer.weight_decay'?"),
    ("num_epochs=1", "unknown key 'num_epochs'; did you mean 'epochs'?"),
    (
      "optimizer.lerning_rate=1",
      "'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'?",
    ),
    ("method.alhpa=1", "unknown key 'method.alhpa'; did you mean 'method.alpha'?"),
    ("methd.alpha=1", "unknown key 'methd.alpha'; did you mean 'method.alpha'?"),
    ("method=dml", "unknown key 'method': it is a section; did you mean 'method.name'"),
    ("epochs.x=1", "unknown key 'epochs.x'"),
    ("cohort.convent.members=1", "did you mean 'cohort.convnet.members'?"),
    ("cohort.convent.members=1", "cohort.convent.model=<name> adds a group$"),
    ("cohort.convent.optimizer.name=sgd", "'cohort.convent.optimizer.name'; did you"),
    ("cohort.convnet=5", "cohort.convnet=none takes the group out$"),
    ("cohort.convent=none", "no group 'convent'; did you mean 'convnet'?"),
    ("cohort.convent.model=x", "^cohort.convent.model: there is no model 'x'; known"),
    ("cohort.a/b.model=vgg.vgg19", "^cohort.a/b.model: 'a/b' cannot be a group: its"),
    ("cohort.convnet.optimizer.rate=1", "key 'cohort.convnet.optimizer.rate'; did"),
    ("cohort.convnet.optimizer.b1=1", "unknown key 'cohort.convnet.optimizer.b1'"),
    ("perturb.blur.sigma=1,2", "'perturb.blur.sigma': blur is not in the pool: add it"),
    ("perturb.ops=noise(sttdev=1)", "'perturb.noise.sttdev'; did you mean 'stddev'?"),
    # Values.
    ("batch_size=many", "batch_size must be int, got 'many'"),
    ("batch_size=1.5", "batch_size must be int, got 1.5"),
    ("optimizer.nesterov=1", "optimizer.nesterov must be bool, got 1"),
    ("optimizer.learning_rate=True", "optimizer.learning_rate must be float, got True"),
    (
      "cohort.convnet.optimizer.learning_rate=fast",
      "cohort.convnet.optimizer.learning_rate must be float, got 'fast'",
    ),
    ("perturb.resized_crop.scale=a,b", "perturb.resized_crop.scale must be float"),
    ("perturb.ops=noise(stddev='a')", "perturb.noise.stddev must be float, got 'a'"),
    ("perturb.ops=noise(0.1)", r"perturb.ops: 'noise\(0.1\)' is not of the form name"),
    ("perturb.ops=noise(", r"perturb.ops: 'noise\(' is not of the form name"),
    # Components.
    ("method.name=dlm", "^method.name: there is no method 'dlm'; did you mean 'dml'"),
    ("data.name=digit", "^data.name: there is no data set 'digit'; did you mean"),
    (
      "cohort.convnet.model=resnet_cifar.resnet33",
      "^cohort.convnet.model: there is no model 'resnet_cifar.resnet33'; did you mean "
      "'resnet_cifar.resnet32'",
    ),
    ("optimizer.name=sdg", "^optimizer.name: there is no optimiser 'sdg'; did you"),
    ("optimizer.schedule=setp", "^optimizer.schedule: there is no schedule 'setp'"),
    (
      "cohort.convnet.optimizer.name=sdg",
      "^cohort.convnet.optimizer.name: there is no optimiser 'sdg'; did you mean 'sgd'",
    ),
    ("perturb.ops=noise,noise", "perturb.ops: 'noise' would be another perturb.noise"),
    ("method.name=math:pi", "^method.name: method 'math:pi' is float, not a function"),
  ],
)
def test_bad_overrides_are_refused(assignment, message):
  with pytest.raises(ConfigError, match=message):
    load(assignment)
