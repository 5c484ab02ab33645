"""The competitive step of equal CIFAR ResNets as a PyTorch user would write it.

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
  """Builds the step for a config whose cohort is one group of CIFAR ResNets.

  Returns:
    (run one step, 1, seconds of the first step).
  """
  (group,) = config.cohort.values()
  depth = int(group.model.rpartition("resnet")[2])
  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
  nets = []
  for _ in range(group.members):
    nets.append(ResNet(depth, num_classes, group.width).to(device))
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
