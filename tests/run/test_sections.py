"""Sections hold the keywords of the components that they name, and no others."""

import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.optim import Chain
from jaxdistill.run import sections
from tests.helpers import runs

LAB = "tests.helpers.my_lab"


@pytest.mark.parametrize("section, kind", list(sections.COMPONENTS.items()))
def test_a_component_has_the_keywords_of_its_factory(section, kind):
  del section
  for name in registry.list_available(kind):
    found = sections.component(kind, name).to_dict()
    assert found == {"name": name, **registry.defaults(kind, name)}


def test_a_group_has_the_keywords_of_its_network():
  for name in registry.list_available("models"):
    found = sections.group(name, members=3)
    assert sections.network_keys(found) == {
      "model": name,
      **registry.defaults("models", name),
    }
    assert found.members == 3 and found.init == "" and not len(found.optimizer)


def test_the_optimizer_has_what_goes_with_all_its_own_keywords_and_its_schedules():
  for name in registry.list_available("optimizers"):
    for schedule in registry.list_available("schedules"):
      found = sections.optimizer(name, schedule).to_dict()
      assert found == {
        **Chain._field_defaults,
        "learning_rate_per": 0,
        **registry.defaults("optimizers", name),
        **registry.defaults("schedules", schedule),
        "name": name,
        "schedule": schedule,
      }


def test_the_perturbation_has_a_subsection_for_each_operation_in_the_pool():
  for name in registry.list_available("perturb"):
    found = sections.perturbation(ops=(name,), every=3).to_dict()
    assert found == {
      "ops": (name,),
      "space": "pixel",
      "every": 3,
      "member": "uniform",
      "label_mix": True,
      name: registry.defaults("perturb", name),
    }


def test_the_augmentation_has_a_subsection_for_each_operation():
  for name in registry.list_available("augment"):
    found = sections.augmentation("none", ops=(name,)).to_dict()
    assert found == {"ops": (name,), name: registry.defaults("augment", name)}
  for recipe, strengths in RECIPES.items():
    found = sections.augmentation(recipe)
    assert found.ops == tuple(strengths)
    for name, own in strengths.items():
      assert found[name].to_dict() == registry.defaults("augment", name) | own
  found = sections.augmentation("reid", ops=("pad_crop",), pad_crop={"mode": "reflect"})
  assert found.pad_crop.to_dict() == {"padding": 10, "mode": "reflect"}


def test_values_replace_defaults():
  assert sections.component("methods", "dml", weight=2.0).weight == 2.0
  assert sections.group("small.convnet", width=8).width == 8
  assert sections.optimizer("adamw", b1=0.5, warmup="1 epoch").b1 == 0.5
  found = sections.perturbation(ops=("noise",), noise={"stddev": 0.3})
  assert found.noise.stddev == 0.3


def test_operations_of_ones_own_have_the_subsection_of_the_function():
  found = sections.perturbation(ops=("mixup", f"{LAB}:fog"), fog={"density": 0.3})
  assert found.ops == ("mixup", f"{LAB}:fog")
  assert found.fog.to_dict() == {"density": 0.3}


@pytest.mark.parametrize(
  "make, message",
  [
    (
      lambda: sections.augmentation("diet"),
      "^augment.recipe must be one of none, cifar, imagenet, deit, reid, got 'diet'",
    ),
    (
      lambda: sections.augmentation(ops=("hflop",)),
      "^augment.ops: there is no augmentation 'hflop'; did you mean 'hflip'?",
    ),
    (
      lambda: sections.augmentation(cutout={"side": 8}),
      "augment has no key 'cutout'",
    ),
    (lambda: sections.component("methods", "dlm"), "no method 'dlm'; did you mean"),
    (
      lambda: sections.component("methods", "dml", wieght=1.0),
      "dml has no key 'wieght'; did you mean 'weight'?",
    ),
    (
      lambda: sections.component("data", f"{LAB}:folder"),
      "my_lab:folder needs dir",
    ),
    (lambda: sections.group("small.convnet", widht=2), "did you mean 'width'?"),
    (lambda: sections.optimizer("sdg"), "^optimizer.name: there is no optimiser 'sdg'"),
    (
      lambda: sections.optimizer(schedule="setp"),
      "^optimizer.schedule: there is no schedule 'setp'; did you mean 'step'?",
    ),
    (
      lambda: sections.optimizer(lr=0.1),
      "optimizer has no key 'lr'; did you mean 'learning_rate'?",
    ),
    (
      lambda: sections.optimizer("adamw", momentum=0.9),
      "optimizer has no key 'momentum'",
    ),
    (
      lambda: sections.optimizer(f"{LAB}:rate_decay", "cosine"),
      "^optimizer.schedule: cosine has a keyword 'final', but that is another key",
    ),
    (
      lambda: sections.perturbation(ops=("nosie",)),
      "^perturb.ops: there is no perturbation 'nosie'; did you mean 'noise'?",
    ),
    (
      lambda: sections.perturbation(ops=("mixup",), noise={"stddev": 0.1}),
      "perturb has no key 'noise'",
    ),
    (
      lambda: sections.perturbation(ops=("noise",), noise={"sttdev": 0.1}),
      "noise has no key 'sttdev'; did you mean 'stddev'?",
    ),
    (
      lambda: sections.perturbation(ops=("noise", "noise")),
      "^perturb.ops: 'noise' would be another perturb.noise",
    ),
    (
      lambda: sections.perturbation(ops=("noise", f"{LAB}:noise")),
      "my_lab:noise' would be another perturb.noise",
    ),
    (
      lambda: sections.perturbation(ops=(f"{LAB}:every",)),
      "my_lab:every' would be another perturb.every",
    ),
  ],
)
def test_what_is_wrong_is_refused(make, message):
  with pytest.raises(ConfigError, match=message):
    make()


def test_another_optimizer_takes_along_what_was_changed_from_its_default():
  section = sections.optimizer("sgd", "step", momentum=0.5, learning_rate=0.3)
  switched = sections.switch_optimizer(section, name="rmsprop", schedule="exponential")
  # The momentum was changed; the decay of the milestones was not, and means another
  # thing here.
  assert switched["momentum"] == 0.5 and switched["learning_rate"] == 0.3
  assert switched["decay"] == registry.defaults("schedules", "exponential")["decay"]
  unchanged = sections.optimizer("sgd", "step")
  switched = sections.switch_optimizer(unchanged, name="rmsprop", schedule="step")
  assert switched["momentum"] == registry.defaults("optimizers", "rmsprop")["momentum"]


def test_a_group_has_the_runs_optimizer_but_for_what_it_names():
  section = sections.optimizer("adamw", "cosine", b2=0.95, learning_rate=0.3)
  plain = sections.group_optimizer(section, {})
  assert plain == section.to_dict()
  rate = sections.group_optimizer(section, {"learning_rate": 0.1})
  assert rate == {**section.to_dict(), "learning_rate": 0.1}
  other = sections.group_optimizer(section, {"name": "sgd", "momentum": 0.8})
  assert other["momentum"] == 0.8 and other["nesterov"] is True
  assert other["schedule"] == "cosine" and "b2" not in other


def test_the_learning_rate_follows_the_batch_size():
  section = sections.optimizer("adamw", "cosine", learning_rate=0.5)
  assert sections.peak_rate(section, batch_size=128) == 0.5
  section.learning_rate_per = 512
  assert sections.peak_rate(section, batch_size=128) == 0.125

  # A group has the run's key, and may have its own.
  own_rate = sections.group_optimizer(section, {"name": "sgd", "learning_rate": 2.0})
  assert sections.peak_rate(own_rate, batch_size=64) == 0.25
  as_given = {"learning_rate": 2.0, "learning_rate_per": 0}
  as_given = sections.group_optimizer(section, as_given)
  assert sections.peak_rate(as_given, batch_size=64) == 2.0


def test_known_keys_are_those_that_the_components_bring():
  config = runs.config("competitive", "perturb.ops=noise")
  known = sections.section_keys(config)
  assert {
    "method.alpha",
    "perturb.noise.stddev",
    "augment.pad_crop.mode",
  } <= known.keys()
  assert {"cohort.convnet.width", "cohort.convnet.members"} <= known.keys()
  assert known["cohort.convnet.optimizer.learning_rate"].default == 0.05
  assert known["cohort.convnet.optimizer.learning_rate"].optional
  assert "perturb.mixup.concentration" not in known and "optimizer.b1" not in known
