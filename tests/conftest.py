"""Tests read what the command line says in English, whatever the developer's locale is, and run kernels of this code alone."""

import os

os.environ["LC_ALL"] = "C.UTF-8"

from app.cli import place_kernels

place_kernels()
