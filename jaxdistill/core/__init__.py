"""What every room speaks of: types, the protocol of a method, keys, names."""
