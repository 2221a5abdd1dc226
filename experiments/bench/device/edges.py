"""The steps of check.py for problems at limits, and for memory errors."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = ("memcheck", "racecheck")


def limit(call) -> dict:
  """Checks that a problem at a limit equals a small one to half a bfloat16 digit."""
  import jax
  import numpy as np

  found = jax.tree.map(float, jax.jit(call)({"seed": np.int32(7)}))
  return {"ok": found["error"] <= 2**-8 * found["size"], **found}


def sanitized(check: str, folder: Path, name: str, tool: str, seconds: int) -> dict:
  """Runs a case under compute-sanitizer and returns what the tool reports.

  Args:
    check: the path of check.py.
    folder: the folder of the exports.
    name: the name of the case.
    tool: one of TOOLS.
    seconds: the time limit.
  """
  sanitizer = shutil.which("compute-sanitizer")
  if sanitizer is None:
    return {"failed": "compute-sanitizer is not on the PATH"}
  with tempfile.TemporaryDirectory() as out:
    ran = subprocess.run(
      [
        *(sanitizer, "--tool", tool, "--target-processes", "all"),
        *(sys.executable, check, "--child"),
        *("--folder", str(folder), "--out", out, "--platform", "gpu"),
      ],
      input=json.dumps([["right", name, seconds]]),
      capture_output=True,
      text=True,
      timeout=seconds,
      check=False,
    )
  said = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", ran.stdout + ran.stderr)
  if not said:
    return {"failed": (ran.stdout + ran.stderr)[-300:]}
  return {"ok": not any(map(int, said)), "found": max(map(int, said))}
