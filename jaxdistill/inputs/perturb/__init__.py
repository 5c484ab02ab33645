"""The pool of stochastic perturbations: what one member sees instead of the batch.

An operation is made by a factory whose keyword arguments are its strengths (config keys
`perturb.<op>.<strength>`) and is a pure function

  op(key, image f32[B, H, W, 3]) -> Perturbed

It draws once per image, but for the operations that mix two images: their weight
belongs to the batch. Images are meant to be in [0, 1] and stay there. Only `noise` and
`color` have to clip for that, so after normalisation, where the released code perturbs,
the others do no harm.

An operation of one's own is one function in one file, and a config names it by
`"my_lab.shade:shade"`:

  def shade(*, strength: float = 0.5) -> Op:
    def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
      factor = jax.random.uniform(key, (len(image), 1, 1, 1), minval=1 - strength)
      return unmixed(factor * image)

    return op

Reference:
  D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
    Strategy for Improving Visual Classification, section 3.2 (the pool, equation 6) and
    its released code.
"""

from jaxdistill.inputs.perturb._results import own_index, unmixed

__all__ = [
  "DEFAULT_POOL",
  "RELEASED_POOL",
  "RELEASED_STRENGTHS",
  "own_index",
  "unmixed",
]

# The paper names image fusion, splicing, noise injection, deformation (here of two
# kinds) and random cropping with its scale of [0.3, 0.7]; what the released code has
# beyond these stands for its "etc.".
DEFAULT_POOL = (
  "mixup",
  "cutmix",
  "noise",
  "elastic",
  "affine",
  "resized_crop",
  "color_blur",
  "hflip",
  "vflip",
)

# The six operations of the released code, and those of their strengths that are not our
# defaults. It perturbs after normalisation (before it, noise of 1 leaves nothing to
# recognise), draws colour, blur and angle once per batch, turns without interpolation,
# and fills the corners with zeros.
RELEASED_POOL = ("mixup", "noise", "color_blur", "hflip", "vflip", "affine")
RELEASED_STRENGTHS = {
  "noise": {"stddev": 1.0},
  "affine": {"rotation": 30.0, "shear": 0.0, "scale": (1.0, 1.0), "translation": 0.0},
}
