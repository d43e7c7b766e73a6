"""What processes do at their start."""

import subprocess
import sys

SCRIPT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from app.serving import FILES_MAX, allow_open_files
allow_open_files()
soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
assert soft == (FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)), (soft, hard)
allow_open_files()
"""


def test_as_many_files_as_the_system_allows() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
