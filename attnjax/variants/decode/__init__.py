"""Selection of cached keys and values in decoding, training-free."""
