"""Golden files of the authors' code and how attnjax maps onto them."""
