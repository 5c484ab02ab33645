"""VGG with batch normalisation, with the head for ImageNet or the one for 32 pixels.

Modules are named as in torchvision's vgg16_bn and vgg19_bn, and with the small head as
in W. Yang's code for CIFAR, github.com/bearpaw/pytorch-classification.

Reference:
  K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image
    Recognition. ICLR 2015, table 1, columns D and E; there without batch normalisation.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_rate
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify_cells, max_pool, require_side

IMAGE_SIZE = 224
STEMS = ("imagenet", "cifar")
# Channels grow up to this multiple of the first stage's.
MAX_GROWTH = 8


class VGG(nn.Module):
  """A VGG with batch normalisation.

  Attributes:
    convs: number of convolutions in each stage.
    num_classes: C.
    stem: "imagenet" for three linear layers on a grid of 7x7 cells, "cifar" for one on
      the mean over positions.
    dropout: rate after the hidden layers, with "imagenet" only.
    width: channels of the first stage; each further stage has twice as many, up to
      eight times.
    hidden: outputs of the two hidden linear layers.
    dtype: computation dtype.
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
    """Classifies images [B, H, W, 3]."""
    # Every stage ends with a pooling that halves the map.
    require_side(image, 2 ** len(self.convs))
    x = image
    features = {}
    index = 0
    for stage, count in enumerate(self.convs, start=1):
      channels = self.width * min(2 ** (stage - 1), MAX_GROWTH)
      for _ in range(count):
        names = (f"features.{index}", f"features.{index + 1}")
        x = conv_norm(
          x, channels, 3, train=train, dtype=self.dtype, bias=True, names=names
        )
        x = nn.relu(x)
        features.setdefault("stem", x)
        # torchvision counts the ReLU, and below the pooling.
        index += 3
      features[f"stage{stage}"] = x
      x = max_pool(x, 2, 2)
      index += 1

    if self.stem == "cifar":
      side = 1
      dropout = {"classifier": 0.0}
    else:
      side = 7
      dropout = {
        "classifier.0": 0.0,
        "classifier.3": self.dropout,
        "classifier.6": self.dropout,
      }
    return classify_cells(
      x,
      features=features,
      num_classes=self.num_classes,
      side=side,
      hidden=self.hidden,
      dropout=dropout,
      train=train,
    )


def _vgg(
  convs: tuple[int, ...], *, num_classes: int, dtype: Any, stem: str, dropout: float
) -> nn.Module:
  """Returns a network after checking what can be configured; arguments as `VGG`.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1).
  """
  require_choice(stem=(stem, STEMS))
  require_rate(dropout=dropout)
  return VGG(
    convs=convs, num_classes=num_classes, stem=stem, dropout=dropout, dtype=dtype
  )


def vgg16(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Returns VGG-16: 138.37 M parameters with 1000 classes.

  With stem="cifar" it has 14.73 M with 10 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images. It is the key of every network for
      the size of its images; here it is the head that differs.
    dropout: rate after the hidden layers of the head for ImageNet.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 32 pixels.
  """
  return _vgg(
    (2, 2, 3, 3, 3), num_classes=num_classes, dtype=dtype, stem=stem, dropout=dropout
  )


def vgg19(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  stem: str = "imagenet",
  dropout: float = 0.5,
) -> nn.Module:
  """Returns VGG-19: 143.68 M parameters with 1000 classes.

  With stem="cifar" it has 20.04 M with 10 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images. It is the key of every network for
      the size of its images; here it is the head that differs.
    dropout: rate after the hidden layers of the head for ImageNet.

  Raises:
    ConfigError: for an unknown stem or a dropout outside [0, 1), and when called, for
      images below 32 pixels.
  """
  return _vgg(
    (2, 2, 4, 4, 4), num_classes=num_classes, dtype=dtype, stem=stem, dropout=dropout
  )
