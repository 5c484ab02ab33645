"""What each member sees: augmentation, perturbation, views."""
