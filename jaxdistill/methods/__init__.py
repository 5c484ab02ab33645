"""How the members of a cohort learn from each other: a file for each method."""
