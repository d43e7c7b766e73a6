"""Kinds of plants: the physics of a profile behind its points and actuators."""
