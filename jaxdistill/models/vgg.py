"""VGG with batch normalisation, with the head for ImageNet or the one that papers use on 32-pixel images.

References:
  K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image
    Recognition. ICLR 2015, table 1,
  columns D and E; there without batch normalisation.

Modules are named as in torchvision's vgg16_bn and vgg19_bn, and with the small head as
in W. Yang's code for CIFAR, github.com/bearpaw/pytorch-classification.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_rate
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify_cells, max_pool, require_side

IMAGE_SIZE = 224
STEMS = ("imagenet", "cifar")


class VGG(nn.Module):
  """A VGG with batch normalisation.

  Attributes:
    convs: number of convolutions in each stage.
    num_classes: C.
    stem: "imagenet" for three linear layers on a grid of 7x7 cells, "cifar" for one on
      the mean over positions.
    dropout: share of the hidden layers' outputs that are dropped, with "imagenet" only.
    width: channels of the first stage; each further stage has twice as many, up to
      eight times.
    hidden: outputs of the two hidden linear layers.
    dtype: of the arithmetic.
  """

  convs: tuple[int, ...]
  num_classes: int
  stem: str = "imagenet"
  dropout: float = 0.5
  width: int = 64
  hidden: int = 4096
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    smallest = 2 ** len(self.convs)
    require_side(image, smallest)
    x, outputs, index = image, {}, 0
    for stage, count in enumerate(self.convs):
      for _ in range(count):
        x = convolution(
          self.width * min(2**stage, 8),
          3,
          dtype=self.dtype,
          bias=True,
          name=f"features.{index}",
        )(x)
        x = nn.relu(batch_norm(train, self.dtype, name=f"features.{index + 1}")(x))
        outputs.setdefault("stem", x)
        index += 3  # torchvision counts the ReLU, and below the pooling
      outputs[f"stage{stage + 1}"] = x
      x = max_pool(x, 2, 2)
      index += 1
    side, dropout = (
      7,
      {"classifier.0": 0.0, "classifier.3": self.dropout, "classifier.6": self.dropout},
    )
    if self.stem == "cifar":
      side, dropout = 1, {"classifier": 0.0}
    return classify_cells(
      x, outputs, self.num_classes, side, self.hidden, dropout, train
    )


def _build(
  convs: tuple[int, ...], num_classes: int, dtype: Any, stem: str, dropout: float
) -> nn.Module:
  require_choice(stem=(stem, STEMS))
  require_rate(dropout=dropout)
  return VGG(convs, num_classes, stem, dropout, dtype=dtype)


def vgg16(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Builds VGG-16: 138.37 M parameters with 1000 classes, 14.73 M with stem="cifar" and 10 classes.

  `stem` is the key of every network for the size of its images; here it is the head
  that differs. Dropout is in the head for ImageNet only.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 32 pixels.
  """
  return _build((2, 2, 3, 3, 3), num_classes, dtype, stem, dropout)


def vgg19(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Builds VGG-19: 143.68 M parameters with 1000 classes, 20.04 M with stem="cifar" and 10 classes.

  `stem` is the key of every network for the size of its images; here it is the head
  that differs. Dropout is in the head for ImageNet only.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 32 pixels.
  """
  return _build((2, 2, 4, 4, 4), num_classes, dtype, stem, dropout)
