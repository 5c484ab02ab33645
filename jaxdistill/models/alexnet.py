"""AlexNet, as torchvision has it for ImageNet or as papers use it on small images.

Modules are named as in torchvision, and with the small head as in W. Yang's code for
CIFAR, github.com/bearpaw/pytorch-classification.

References:
  A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep
    Convolutional Neural Networks. NIPS 2012.
  A. Krizhevsky: One weird trick for parallelizing convolutional neural networks.
    arXiv:1404.5997, 2014: the version on one device, which torchvision has without
    local response normalisation.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_rate
from jaxdistill.nn.conv import convolution
from jaxdistill.nn.heads import classify, classify_cells, max_pool, require_side

IMAGE_SIZE = 224


class Stem(NamedTuple):
  """How the network reads images of one size.

  Attributes:
    padding: positions that the first convolution adds on every side.
    window: side of the poolings' windows.
    smallest: side of the smallest image, in pixels.
  """

  padding: int
  window: int
  smallest: int


STEMS = {
  "imagenet": Stem(padding=2, window=3, smallest=63),
  "cifar": Stem(padding=5, window=2, smallest=29),
}


class AlexNet(nn.Module):
  """AlexNet: five convolutions without normalisation, and linear layers.

  Attributes:
    num_classes: C.
    stem: "imagenet" for three linear layers on a grid of 6x6 cells, "cifar" for one on
      the mean over positions.
    dropout: rate before the first two linear layers, with "imagenet" only.
    channels: of the five convolutions.
    hidden: outputs of the two hidden linear layers.
    dtype: computation dtype.
  """

  num_classes: int
  stem: str = "imagenet"
  dropout: float = 0.5
  channels: tuple[int, ...] = (64, 192, 384, 256, 256)
  hidden: int = 4096
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""

    def conv(x, channels, kernel, index, stride=1, padding=None):
      """Convolves and applies ReLU; `index` is torchvision's among the features."""
      module = convolution(
        channels,
        kernel,
        stride,
        dtype=self.dtype,
        bias=True,
        padding=padding,
        name=f"features.{index}",
      )
      return nn.relu(module(x))

    stem = STEMS[self.stem]
    require_side(image, stem.smallest)
    first, second, third, fourth, fifth = self.channels
    features = {}

    x = conv(image, first, 11, index=0, stride=4, padding=stem.padding)
    features["stem"] = x
    x = max_pool(x, stem.window, 2)

    x = conv(x, second, 5, index=3)
    features["stage1"] = x
    x = max_pool(x, stem.window, 2)

    x = conv(x, third, 3, index=6)
    x = conv(x, fourth, 3, index=8)
    x = conv(x, fifth, 3, index=10)
    features["stage2"] = x
    x = max_pool(x, stem.window, 2)

    if self.stem == "cifar":
      return classify(x, features, self.num_classes, name="classifier")
    dropout = {
      "classifier.1": self.dropout,
      "classifier.4": self.dropout,
      "classifier.6": 0.0,
    }
    return classify_cells(
      x,
      features=features,
      num_classes=self.num_classes,
      side=6,
      hidden=self.hidden,
      dropout=dropout,
      train=train,
    )


def alexnet(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Returns AlexNet: 61.10 M parameters with 1000 classes.

  With stem="cifar" it has 2.47 M with 10 classes. Interval distillation (Gao et al.,
  Entropy 2019, table 1) has it as a member.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images, which pads the first convolution by 5
      instead of 2, pools over 2x2 instead of 3x3 windows, and has one linear layer and
      no dropout.
    dropout: rate before the first two of the three linear layers.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 63 pixels, or 29 with stem="cifar".
  """
  require_choice(stem=(stem, tuple(STEMS)))
  require_rate(dropout=dropout)
  return AlexNet(num_classes=num_classes, stem=stem, dropout=dropout, dtype=dtype)
