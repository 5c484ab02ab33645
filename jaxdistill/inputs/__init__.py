"""What the members see: augmentation, perturbation, and the views made of both."""
