"""Augmentation of all members' images, on the device: a pool of operations.

`augment.ops` names the operations; they are applied in this order, each to every image
of every batch. An operation is made by a factory whose keyword arguments are its
strengths (config keys `augment.<op>.<strength>`) and is a pure function

  augment(key, image uint8 or f32 [B, H, W, 3]) -> uint8 or f32 [B, H', W', 3]

with one draw for each image. Float images are in [0, 1]. Operations that only move
pixels leave bytes as they are, a quarter of the memory to move; the others begin with
`to_float`. The one that mixes images of a batch, `mix`, comes last.

A factory may have keywords that are no config keys, which the program gives: `mean` and
`std` of the data set, of each channel in [0, 1], and `size`, the height and width that
the networks are made for.

An operation of one's own is one function in one file, and a config names it by
`"my_lab.shade:shade"`:

  def shade(*, strength: float = 0.5) -> Augment:
    def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
      factor = jax.random.uniform(key, (len(image), 1, 1, 1), minval=1 - strength)
      return factor * to_float(image)

    return augment
"""

from typing import Any

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
  "none": {},
  # He et al., CVPR 2016, section 4.2.
  "cifar": {"pad_crop": {}, "hflip": {}},
  # Szegedy et al., CVPR 2015, section 6, without its distortion of colours.
  "imagenet": {"random_resized_crop": {}, "hflip": {}},
  # Touvron et al., ICML 2021, table 9, and the released code where that is silent.
  "deit": {
    "random_resized_crop": {"interpolation": "cubic"},
    "hflip": {},
    "rand_augment": {},
    "random_erasing": {},
    "mix": {},
  },
  # Zhong et al., AAAI 2020, section 4.3 on re-identification; the padding and the
  # probability are those of Luo et al., CVPR Workshops 2019, section 3.
  "reid": {
    "pad_crop": {"padding": 10},
    "hflip": {},
    "random_erasing": {
      "probability": 0.5,
      "area": (0.02, 0.4),
      "ratio": (0.3, 1 / 0.3),
      "fill": "mean",
    },
  },
}
"""Name -> operation -> strengths that are not its defaults."""
