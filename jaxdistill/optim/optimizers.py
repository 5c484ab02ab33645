"""Optimisers: from gradients to the direction of a step with learning rate 1.

An optimiser is made by a factory that gets the weight decay as a transformation, to put
it where it belongs, and whose keyword arguments are config keys of the section
`optimizer`. Clipping, the decay mask, the schedule and accumulation are put around it,
see `jaxdistill.optim.chain`.
"""

import optax

from jaxdistill.errors import (
  require,
  require_not_negative,
  require_positive,
  require_rate,
)


def sgd(
  decay: optax.GradientTransformation, *, momentum: float = 0.9, nesterov: bool = True
) -> optax.GradientTransformation:
  """Returns SGD as PyTorch has it.

  The decay is added to the gradient, and the velocity is not scaled by the rate.

  Args:
    decay: adds the decayed weights.
    momentum: of the velocity, in [0, 1).
    nesterov: whether the velocity looks one step ahead.
  """
  require_rate(momentum=momentum)
  if not momentum:
    return decay
  return optax.chain(decay, optax.trace(momentum, nesterov=nesterov))


def adam(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns Adam as PyTorch has it, with the decay added to the gradient.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    D. Kingma, J. Ba: Adam: A Method for Stochastic Optimization. ICLR 2015.
  """
  return optax.chain(decay, _scale_by(optax.scale_by_adam, b1, b2, eps))


def adamw(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns Adam with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    I. Loshchilov, F. Hutter: Decoupled Weight Decay Regularization. ICLR 2019.
  """
  return optax.chain(_scale_by(optax.scale_by_adam, b1, b2, eps), decay)


def nadamw(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns AdamW with Nesterov momentum.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    T. Dozat: Incorporating Nesterov Momentum into Adam. ICLR workshop 2016.
  """
  return optax.chain(_scale_by(optax.scale_by_adam, b1, b2, eps, nesterov=True), decay)


def radam(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns rectified Adam with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    L. Liu et al.: On the Variance of the Adaptive Learning Rate and Beyond. ICLR 2020.
  """
  return optax.chain(_scale_by(optax.scale_by_radam, b1, b2, eps), decay)


def amsgrad(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns AMSGrad with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    S. Reddi, S. Kale, S. Kumar: On the Convergence of Adam and Beyond. ICLR 2018.
  """
  return optax.chain(_scale_by(optax.scale_by_amsgrad, b1, b2, eps), decay)


def adabelief(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-16,
) -> optax.GradientTransformation:
  """Returns AdaBelief with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the mean squared deviation from it, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    J. Zhuang et al.: AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed
      Gradients. NeurIPS 2020.
  """
  return optax.chain(_scale_by(optax.scale_by_belief, b1, b2, eps), decay)


def yogi(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-3,
) -> optax.GradientTransformation:
  """Returns Yogi with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's estimate, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    M. Zaheer et al.: Adaptive Methods for Nonconvex Optimization. NeurIPS 2018.
  """
  return optax.chain(_scale_by(optax.scale_by_yogi, b1, b2, eps), decay)


def lion(
  decay: optax.GradientTransformation, *, b1: float = 0.9, b2: float = 0.99
) -> optax.GradientTransformation:
  """Returns Lion, the sign of a momentum, with decoupled decay.

  Args:
    decay: adds the decayed weights.
    b1: how much the momentum counts in the step, in [0, 1).
    b2: decay of the momentum, in [0, 1).

  Reference:
    X. Chen et al.: Symbolic Discovery of Optimization Algorithms. NeurIPS 2023.
  """
  require_rate(b1=b1, b2=b2)
  return optax.chain(optax.scale_by_lion(b1, b2), decay)


def lamb(
  decay: optax.GradientTransformation,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
) -> optax.GradientTransformation:
  """Returns LAMB, for large batches: Adam, scaled by the norm of each layer's weights.

  Args:
    decay: adds the decayed weights.
    b1: decay of the gradient's mean, in [0, 1).
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to the root of the latter.

  Reference:
    Y. You et al.: Large Batch Optimization for Deep Learning: Training BERT in 76
      minutes. ICLR 2020.
  """
  adapted = _scale_by(optax.scale_by_adam, b1, b2, eps)
  return optax.chain(adapted, decay, optax.scale_by_trust_ratio())


def lars(
  decay: optax.GradientTransformation,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
  """Returns LARS, for large batches: SGD, scaled by the norm of each layer's weights.

  Args:
    decay: adds the decayed weights.
    momentum: of the velocity, in [0, 1).
    nesterov: whether the velocity looks one step ahead.
    trust_coefficient: ratio of the step's norm to the weights', above 0.

  Reference:
    Y. You, I. Gitman, B. Ginsburg: Large Batch Training of Convolutional Networks.
      2017.
  """
  require_positive(trust_coefficient=trust_coefficient)
  scaled = optax.chain(
    decay, optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
  )
  return sgd(scaled, momentum=momentum, nesterov=nesterov)


def rmsprop(
  decay: optax.GradientTransformation,
  *,
  b2: float = 0.9,
  eps: float = 1e-8,
  momentum: float = 0.0,
) -> optax.GradientTransformation:
  """Returns RMSProp with the decay added to the gradient.

  Args:
    decay: adds the decayed weights.
    b2: decay of the squared gradient's mean, in [0, 1).
    eps: added to it.
    momentum: of the velocity, in [0, 1).

  Reference:
    T. Tieleman, G. Hinton: Lecture 6.5, RMSProp. COURSERA: Neural Networks for Machine
      Learning, 2012.
  """
  require_rate(b2=b2)
  require_not_negative(eps=eps)
  scaled = optax.chain(decay, optax.scale_by_rms(b2, eps))
  return sgd(scaled, momentum=momentum, nesterov=False)


def adagrad(
  decay: optax.GradientTransformation, *, initial: float = 0.1, eps: float = 1e-7
) -> optax.GradientTransformation:
  """Returns AdaGrad with the decay added to the gradient.

  Args:
    decay: adds the decayed weights.
    initial: first value of the sum of squared gradients, at least 0.
    eps: added to it, above 0.

  Reference:
    J. Duchi, E. Hazan, Y. Singer: Adaptive Subgradient Methods for Online Learning.
      JMLR 2011.
  """
  require_not_negative(initial=initial)
  require_positive(eps=eps)
  return optax.chain(decay, optax.scale_by_rss(initial, eps))


def _scale_by(
  transform, b1: float, b2: float, eps: float, **further
) -> optax.GradientTransformation:
  """Builds one of Adam's family after checking what they share.

  Raises:
    ConfigError: naming the key.
  """
  require_rate(b1=b1, b2=b2)
  require(0 < eps < 1, f"eps must lie between 0 and 1, got {eps}")
  return transform(b1=b1, b2=b2, eps=eps, **further)
