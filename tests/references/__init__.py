"""Networks in PyTorch whose outputs ours must reproduce: by torchvision and timm, or written out where neither has them.

Every module here holds `CASES`: case -> (ours, reference, side of the image). `ours()` is a network of this package and
`reference()` a torch module with the same parameters under the same names. PyTorch is imported only by the latter, and
only to record `tests/golden/networks.npz`; the tests compare with that file.
"""
