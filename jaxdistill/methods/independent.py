"""Independent training: the baseline every other method has to beat under the same recipe."""

from jaxdistill.core.method import Method, Step
from jaxdistill.core.types import Objective


def independent() -> Method:
  """Returns the method that trains every member on the labels alone: L_i = CE(z_i, y)."""

  def loss(step: Step) -> Objective:
    return Objective(member=step.label_loss)

  return Method(loss=loss)
