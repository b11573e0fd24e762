"""A face in W+: codes that are moved towards an expression."""
