"""Networks in PyTorch whose outputs ours must reproduce.

They are torchvision's and timm's, or written out where neither has them. Every module
of a family holds `CASES`: name -> `Case`. PyTorch is imported only by the references,
and only to record `tests/golden/networks.npz`; the tests compare with that file.
"""
