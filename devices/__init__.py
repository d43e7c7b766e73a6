"""Device profiles as data, and the command life cycle from demand to measured feedback."""
