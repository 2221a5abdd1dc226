"""Pure functions that several systems share."""
