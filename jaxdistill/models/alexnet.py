"""AlexNet, as torchvision has it for ImageNet or as papers use it on 32-pixel images.

References:
  A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep
    Convolutional Neural Networks. NIPS 2012.
  A. Krizhevsky: One weird trick for parallelizing convolutional neural networks.
    arXiv:1404.5997, 2014: the version
  on one device, without local response normalisation in torchvision.

Modules are named as in torchvision, and with the small head as in W. Yang's code for
CIFAR, github.com/bearpaw/pytorch-classification.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_rate
from jaxdistill.nn.conv import convolution
from jaxdistill.nn.heads import classify, classify_cells, max_pool, require_side

IMAGE_SIZE = 224
# Padding of the first convolution, window of the poolings, side of the smallest image.
STEMS = {"imagenet": (2, 3, 63), "cifar": (5, 2, 29)}
# Index among torchvision's features, kernel and what the output is called, if a pooling
# follows.
CONVS = (
  (0, 11, "stem"),
  (3, 5, "stage1"),
  (6, 3, None),
  (8, 3, None),
  (10, 3, "stage2"),
)


class AlexNet(nn.Module):
  """AlexNet: five convolutions without normalisation, and linear layers.

  Attributes:
    num_classes: C.
    stem: "imagenet" for three linear layers on a grid of 6x6 cells, "cifar" for one on
      the mean over positions.
    dropout: share of the first two linear layers' inputs that are dropped, with
      "imagenet" only.
    channels: of the convolutions.
    hidden: outputs of the two hidden linear layers.
    dtype: of the arithmetic.
  """

  num_classes: int
  stem: str = "imagenet"
  dropout: float = 0.5
  channels: tuple[int, ...] = (64, 192, 384, 256, 256)
  hidden: int = 4096
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    first, window, smallest = STEMS[self.stem]
    require_side(image, smallest)
    x, outputs = image, {}
    for (index, kernel, output), channels in zip(CONVS, self.channels, strict=True):
      stride, padding = (4, first) if index == 0 else (1, None)
      x = convolution(
        channels,
        kernel,
        stride,
        dtype=self.dtype,
        bias=True,
        padding=padding,
        name=f"features.{index}",
      )(x)
      x = nn.relu(x)
      if output:
        outputs[output] = x
        x = max_pool(x, window, 2)
    if self.stem == "cifar":
      return classify(x, outputs, self.num_classes, name="classifier")
    dropout = {
      "classifier.1": self.dropout,
      "classifier.4": self.dropout,
      "classifier.6": 0.0,
    }
    return classify_cells(x, outputs, self.num_classes, 6, self.hidden, dropout, train)


def alexnet(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Builds AlexNet: 61.10 M parameters with 1000 classes, 2.47 M with stem="cifar" and 10 classes.

  The latter pads the first convolution by 5 instead of 2, pools over 2x2 instead of 3x3
  windows, has one linear layer and no dropout. Interval distillation (Gao et al.,
  Entropy 2019, table 1) has it as a member.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 63 pixels, or 29 with stem="cifar".
  """
  require_choice(stem=(stem, tuple(STEMS)))
  require_rate(dropout=dropout)
  return AlexNet(num_classes, stem, dropout, dtype=dtype)
