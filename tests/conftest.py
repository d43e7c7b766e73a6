"""Tests read what the command line says in English, whatever the developer's locale is."""

import os

os.environ["LC_ALL"] = "C.UTF-8"
