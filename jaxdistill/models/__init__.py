"""Networks: a file for each family, a factory function for each size.

A factory has the keywords `num_classes` and `dtype` and the annotation `-> nn.Module`;
its other keyword-only arguments are config keys. `IMAGE_SIZE` of its file is the side,
in pixels, of the square images that the networks are usually used with.
"""
