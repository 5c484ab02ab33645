"""The competitive step of equal networks as a PyTorch user would write it.

CIFAR ResNets, Wide ResNets and MobileNetV2 for small images.

Eager, with the data on the device.
"""

import time

import torch
from torch import nn
import torch.nn.functional as F


class Block(nn.Module):
  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.stride, self.extra = stride, outputs - inputs
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

  def forward(self, x):
    y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
    if self.extra:
      x = F.pad(
        x[:, :, :: self.stride, :: self.stride],
        (0, 0, 0, 0, self.extra // 2, self.extra // 2),
      )
    return F.relu(x + y)


class ResNet(nn.Module):
  def __init__(self, depth, num_classes, width):
    super().__init__()
    blocks, inputs = [], width
    for stage in range(3):
      for block in range((depth - 2) // 6):
        outputs = width * 2**stage
        blocks.append(Block(inputs, outputs, 2 if stage and not block else 1))
        inputs = outputs
    self.stem = nn.Sequential(
      nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
    self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, num_classes)

  def forward(self, x):
    pooled = self.blocks(self.stem(x)).mean((2, 3))
    return self.head(pooled), pooled


class WideBlock(nn.Module):
  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.shortcut = None
    if inputs != outputs:
      self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

  def forward(self, x):
    before = F.relu(self.norm1(x))
    if self.shortcut:
      x = self.shortcut(before)
    return x + self.conv2(F.relu(self.norm2(self.conv1(before))))


class WideResNet(nn.Module):
  def __init__(self, depth, widen, num_classes):
    super().__init__()
    blocks, inputs = [], 16
    for stage in range(3):
      for block in range((depth - 2) // 6):
        outputs = 16 * widen * 2**stage
        blocks.append(WideBlock(inputs, outputs, 2 if stage and not block else 1))
        inputs = outputs
    self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    self.blocks = nn.Sequential(*blocks)
    self.norm, self.head = nn.BatchNorm2d(inputs), nn.Linear(inputs, num_classes)

  def forward(self, x):
    pooled = F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3))
    return self.head(pooled), pooled


def _unit(inputs, outputs, kernel, stride=1, groups=1):
  conv = nn.Conv2d(
    inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
  )
  return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
  def __init__(self, inputs, outputs, expansion, stride):
    super().__init__()
    hidden = expansion * inputs
    self.is_residual = stride == 1 and inputs == outputs
    expand = [_unit(inputs, hidden, 1)] if expansion > 1 else []
    self.layers = nn.Sequential(
      *expand,
      _unit(hidden, hidden, 3, stride, groups=hidden),
      nn.Conv2d(hidden, outputs, 1, bias=False),
      nn.BatchNorm2d(outputs),
    )

  def forward(self, x):
    y = self.layers(x)
    return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
  # (expansion, channels, blocks, stride), with fewer strides for 32 pixels.
  STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
  )

  def __init__(self, num_classes):
    super().__init__()
    layers, inputs = [_unit(3, 32, 3)], 32
    for expansion, outputs, blocks, stride in self.STAGES:
      for block in range(blocks):
        own_stride = stride if block == 0 else 1
        layers.append(InvertedResidual(inputs, outputs, expansion, own_stride))
        inputs = outputs
    self.layers = nn.Sequential(*layers, _unit(inputs, 1280, 1))
    self.head = nn.Linear(1280, num_classes)

  def forward(self, x):
    pooled = self.layers(x).mean((2, 3))
    return self.head(pooled), pooled


def _network(group, num_classes):
  """Returns the network of a group of the config."""
  if group.model == "wide_resnet.wrn":
    return WideResNet(group.depth, group.widen, num_classes)
  if group.model == "mobilenet.v2":
    if group.stem != "cifar":
      raise SystemExit("PyTorch's MobileNetV2 here has the stem for small images")
    return MobileNetV2(num_classes)
  depth = int(group.model.rpartition("resnet")[2])
  return ResNet(depth, num_classes, group.width)


def _augment(x):
  size, device = x.shape[0], x.device
  x = F.pad(x, (4, 4, 4, 4))
  along = torch.arange(32, device=device)
  flipped = torch.where(
    torch.rand(size, 1, device=device) < 0.5, 31 - along[None], along[None]
  )
  columns = flipped + torch.randint(0, 9, (size, 1), device=device)
  rows = along[None] + torch.randint(0, 9, (size, 1), device=device)
  picked = x.permute(0, 2, 3, 1)[
    torch.arange(size, device=device)[:, None, None], rows[:, :, None], columns[:, None]
  ]
  return (picked.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def _optimizer(net, keys, device):
  return torch.optim.SGD(
    net.parameters(),
    keys.learning_rate,
    keys.momentum,
    nesterov=keys.nesterov,
    weight_decay=keys.weight_decay,
    fused=device == "cuda",
  )


def _competitive_loss(logits, features, labels):
  """Cross-entropies, and the distances of the others to the member with the lowest."""
  ce = torch.stack([F.cross_entropy(z.float(), labels) for z in logits])
  winner = int(ce.argmin())
  teacher = F.log_softmax(logits[winner].float(), 1).detach()
  target = features[winner].float().detach()
  loss = ce.sum()
  for i in range(len(logits)):
    if i == winner:
      continue
    student = F.log_softmax(logits[i].float(), 1)
    loss = loss + F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    loss = loss + F.mse_loss(features[i].float(), target)
  return loss


def variant(config, num_classes, examples):
  """Builds the step for a config whose cohort is one group of a network above.

  Returns:
    (run one step, 1, seconds of the first step).
  """
  (group,) = config.cohort.values()
  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
  nets = []
  for _ in range(group.members):
    nets.append(_network(group, num_classes).to(device))
  optimizers = [_optimizer(net, config.optimizer, device) for net in nets]
  size = (examples, 3, 32, 32)
  images = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
  labels = torch.randint(0, num_classes, (examples,), device=device)

  def step():
    index = torch.randint(0, examples, (config.batch_size,), device=device)
    x = _augment(images[index])
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
      outputs = [net(x) for net in nets]
    logits = [output[0] for output in outputs]
    features = [output[1] for output in outputs]
    loss = _competitive_loss(logits, features, labels[index])
    for optimizer in optimizers:
      optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
      optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  start = time.perf_counter()
  step()
  return step, 1, time.perf_counter() - start
