"""Lists the networks with parameters, work of a forward pass, and features.

Each is described at the image size that it is usually used with.

python -m jaxdistill models                 # all of them, a minute or two
python -m jaxdistill models resnet vit.vit_s
"""

import argparse
from collections.abc import Sequence
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.errors import require, run_command
from jaxdistill.nn.conv import as_written

_HEADER = (
  f"{'name':<26} {'image':>5} {'classes':>7} {'parameters':>12} {'GFLOPs':>8}  features"
)


class Description(NamedTuple):
  """A network with its default keywords.

  Attributes:
    side: of the square images it is usually used with, in pixels.
    classes: C.
    parameters: their number.
    flops: of a forward pass over one image; a multiplication and an addition are two.
    features: name -> shape without the batch.
  """

  side: int
  classes: int
  parameters: int
  flops: float
  features: dict[str, tuple[int, ...]]


def describe(name: str) -> Description:
  """Describes a built-in network with its default keywords, without computing anything.

  XLA counts the FLOPs, and a loop as if it ran once: of Vim's scan, about a tenth of
  its work, a CPU counts one token.
  """
  factory = registry.find("models", name)
  side = sys.modules[factory.__module__].IMAGE_SIZE
  classes = 1000 if side == 224 else 100
  model = factory(num_classes=classes)
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

  def init():
    return model.init(jax.random.key(0), jnp.zeros(image.shape), train=False)

  def logits(variables, image):
    return model.apply(variables, image, train=False).logits

  def features(variables, image):
    return model.apply(variables, image, train=False).features

  variables = jax.eval_shape(init)
  with as_written():
    lowered = jax.jit(logits).lower(variables, image)
  shapes = jax.eval_shape(features, variables, image)
  return Description(
    side=side,
    classes=classes,
    parameters=sum(x.size for x in jax.tree.leaves(variables["params"])),
    flops=lowered.cost_analysis()["flops"],
    # Dicts come back sorted; people read from shallow to deep.
    features={key: shapes[key].shape[1:] for key in sorted(shapes, key=_depth)},
  )


def _depth(feature: str) -> tuple[bool, bool, str]:
  """Sorts "stem" first and "pooled" last."""
  return feature != "stem", feature == "pooled", feature


def _print(names: Sequence[str]) -> None:
  """Prints a row for each of the networks."""
  print(_HEADER)
  for name in names:
    found = describe(name)
    features = []
    for feature, shape in found.features.items():
      features.append(f"{feature} {'x'.join(map(str, shape))}")
    print(
      f"{name:<26} {found.side:>5} {found.classes:>7} {found.parameters:>12,} "
      f"{found.flops / 1e9:>8.3f}  {', '.join(features)}",
      flush=True,
    )


def _chosen(wanted: Sequence[str]) -> list[str]:
  """Returns the networks that are named, or whose file is; all if none is.

  Raises:
    ConfigError: for an unknown name.
  """
  names = registry.list_available("models")
  known = {*names, *(name.split(".")[0] for name in names)}
  for name in wanted:
    require(
      name in known, f"there is no network {name!r}{registry.nearest(name, known)}"
    )
  if not wanted:
    return list(names)
  return [name for name in names if {name, name.split(".")[0]} & set(wanted)]


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill models",
    description="List the networks with parameters, work of a forward pass, and "
    "features.",
    epilog="example: python -m jaxdistill models resnet vit.vit_s",
  )
  parser.add_argument(
    "names", nargs="*", metavar="NAME", help="a network or a family; default: all"
  )
  names = parser.parse_args(argv).names
  return run_command(lambda: _print(_chosen(names)))
