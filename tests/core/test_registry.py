"""Components are found by name; what is no component is refused in one line."""

import re

import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError

LAB = "tests.helpers.my_lab"

# What a kind passes to its factories itself.
GIVEN = {
  "methods": ((), {}),
  "models": ((), {"num_classes": 3, "dtype": "float32"}),
  "data": ((), {}),
  "augment": ((), {}),
  "perturb": ((), {}),
  "optimizers": ((None,), {}),
  "schedules": ((0.1, None), {}),
}


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_has_components_which_are_found_by_their_names(kind):
  names = registry.list_available(kind)
  assert names
  for name in names:
    assert registry.find(kind, name).__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize("kind", registry.KINDS)
@pytest.mark.parametrize(
  "name, message",
  [
    ("no_such_thing", "there is no {noun} 'no_such_thing'"),
    ("nowhere:make", "{noun} 'nowhere:make' cannot be imported"),
    ("math:no_such_thing", "{noun} 'math:no_such_thing' cannot be imported"),
    ("math:pi", "{noun} 'math:pi' is float, not a function"),
    (f"{LAB}:returns_pi", "returned float: it must return {product}"),
  ],
)
def test_what_is_no_component_is_refused(kind, name, message):
  noun = registry.KINDS[kind].noun
  product = registry.KINDS[kind].product.partition(":")[2]
  args, kwargs = GIVEN[kind]
  wanted = re.escape(message.format(noun=noun, product=product))
  with pytest.raises(ConfigError, match=wanted):
    registry.resolve(kind, name, *args, **kwargs)


@pytest.mark.parametrize("kind", ["methods", "data", "perturb"])
def test_a_function_that_cannot_be_called_is_refused(kind):
  with pytest.raises(ConfigError, match="missing a required argument: 'first'"):
    registry.resolve(kind, f"{LAB}:needs_more")


def test_unknown_and_missing_keywords_are_named():
  with pytest.raises(ConfigError, match="no key 'tmperature'; did you mean 'temper"):
    registry.resolve("methods", f"{LAB}:consensus", tmperature=1.0, strictness=1.0)
  with pytest.raises(ConfigError, match="consensus needs strictness"):
    registry.resolve("methods", f"{LAB}:consensus")


@pytest.mark.parametrize(
  "name, candidates, meant",
  [
    ("lr", ["learning_rate", "lambda"], "learning_rate"),
    ("optimizer.lr", ["optimizer.learning_rate"], "optimizer.learning_rate"),
    ("tmperature", ["temperature", "weight"], "temperature"),
    ("xyz", ["temperature", "weight"], None),
  ],
)
def test_synonyms_and_misspellings(name, candidates, meant):
  assert registry.closest(name, candidates) == meant


def test_without_anything_near_all_candidates_are_listed():
  assert registry.nearest("xyz", ["b", "a"]) == "; known are a, b"
  assert registry.nearest("xyz", []) == "; known are none"
