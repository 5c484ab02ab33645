"""Lists the networks: parameters, work of a forward pass, and features, at the image size each is usually used with.

    python -m jaxdistill.models                 # all of them, a minute or two
    python -m jaxdistill.models resnet vit.vit_s
"""

import sys

import jax
import jax.numpy as jnp

from jaxdistill import registry
from jaxdistill.convolution import as_written
from jaxdistill.errors import require, run_command

_HEADER = f"{'name':<26} {'image':>5} {'classes':>7} {'parameters':>12} {'GFLOPs':>8}  features"


def describe(name: str) -> tuple[int, int, int, float, dict[str, tuple[int, ...]]]:
  """Describes a built-in network with its default keywords, without computing anything.

  Returns:
    (side of the image, classes, parameters, FLOPs of a forward pass over one image, feature -> shape without the
    batch). A multiplication and an addition are two FLOPs. XLA counts them, and a loop as if it ran once: of Vim's
    scan, about a tenth of its work, a CPU counts one token.
  """
  factory = registry.find("models", name)
  side = sys.modules[factory.__module__].IMAGE_SIZE
  classes = 1000 if side == 224 else 100
  model = factory(num_classes=classes)
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(image.shape), train=False))
  apply = lambda variables, image: model.apply(variables, image, train=False)
  with as_written():
    lowered = jax.jit(lambda *args: apply(*args).logits).lower(variables, image)
  parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
  output = jax.eval_shape(apply, variables, image)
  order = sorted(output.features, key=lambda key: (key != "stem", key == "pooled", key))  # dicts come back sorted
  features = {key: output.features[key].shape[1:] for key in order}
  return side, classes, parameters, lowered.cost_analysis()["flops"], features


def _main() -> None:
  names = registry.list_available("models")
  for wanted in sys.argv[1:]:
    require(any(wanted in (name, name.split(".")[0]) for name in names),
            f"there is no network {wanted!r}{registry.nearest(wanted, {*names, *(name.split('.')[0] for name in names)})}")
  print(_HEADER)
  for name in names:
    if not sys.argv[1:] or {name, name.split(".")[0]} & set(sys.argv[1:]):
      side, classes, parameters, flops, features = describe(name)
      shown = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in features.items())
      print(f"{name:<26} {side:>5} {classes:>7} {parameters:>12,} {flops / 1e9:>8.3f}  {shown}", flush=True)


if __name__ == "__main__":
  sys.exit(run_command(_main))
