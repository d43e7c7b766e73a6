"""Control: primitives that controllers are made of."""
