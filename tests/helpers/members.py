"""Members on disk without training: weights drawn from their names."""

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.run import member, pretrained
from tests.references import draw


def save(path, name="small.convnet", *, side=8, num_classes=3, keys=None, **changes):
  """Writes a member.

  Args:
    path: its directory.
    name: of the network.
    side: of its images, in pixels.
    num_classes: C.
    keys: of the network.
    **changes: entries of the manifest; None leaves one out.

  Returns:
    The path.
  """
  if keys is None:
    keys = {"width": 4} if name == "small.convnet" else {}
  model = registry.resolve("models", name, num_classes=num_classes, **keys)

  def init():
    return model.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False)

  structure = jax.eval_shape(init)
  tensors = draw.tensors(pretrained.shapes(structure))
  manifest = {
    "step": 7,
    "metrics": {"top1": 0.5, "nll": 1.25},
    "select_on": "test",
    "model": {"model": name, **keys},
    "dtype": "float32",
    "num_classes": num_classes,
    "class_names": ("cat", "dog", "owl")[:num_classes] if num_classes < 4 else (),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.1),
    "image_shape": (side, side, 3),
    **changes,
  }
  kept = {key: value for key, value in manifest.items() if value is not None}
  member.save(path, pretrained.from_published(tensors, structure), kept)
  return path
