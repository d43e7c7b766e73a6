"""Figures: what the parts cost, measured beside what they stand on."""

from app.cli import place_kernels

place_kernels()
