"""Methods: how the members of a cohort learn from each other, a file for each."""
