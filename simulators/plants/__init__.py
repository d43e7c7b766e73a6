"""Kinds of plants as houses: a model behind the points and actuators of its profile."""
