"""The engine: from a cohort and a method to compiled steps, evaluation and surveys."""
