"""Code that compiles for absent machines, in a child process.

A process that has imported Triton to interpret cannot compile, libtpu reads its flags
once, and the test runner's processes are shared by many files.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.bench import machines

_ROOT = Path(__file__).parent.parent


def child(code: str) -> Any:
  """What the code prints last, read as JSON."""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=_ROOT,
    env=machines.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise AssertionError(done.stderr[-3000:])
  return json.loads(done.stdout.splitlines()[-1])
