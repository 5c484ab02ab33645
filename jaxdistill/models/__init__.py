"""Networks: a file for each family, a factory function for each size."""
