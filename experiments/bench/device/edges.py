"""The steps of check.py for problems at limits, and for memory errors."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
  from experiments.bench.device import bounds
except ImportError:  # as it lies beside the exports, without the project
  import bounds  # pyrefly: ignore[missing-import]

TOOLS = ("memcheck", "racecheck")


def limit(call) -> dict:
  """Returns how far a problem at a limit is from a small one that must equal it."""
  import jax
  import numpy as np

  found = jax.tree.map(float, jax.jit(call)({"seed": np.int32(7)}))
  return {"ok": bounds.limit(**found), **found}


def alone(call, arrays: dict) -> dict:
  """Runs a kernel's program once, for a sanitizer around this process."""
  import jax

  jax.block_until_ready(jax.jit(call)(arrays))
  return {"ok": True}


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
        *(sanitizer, "--tool", tool),
        *(sys.executable, check, "--child"),
        *("--folder", str(folder), "--out", out, "--platform", "gpu"),
      ],
      input=json.dumps([["alone", name, seconds]]),
      capture_output=True,
      text=True,
      timeout=seconds,
      check=False,
    )
  said = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", ran.stdout + ran.stderr)
  if not said:
    return {"failed": (ran.stdout + ran.stderr)[-300:]}
  return {"ok": not any(map(int, said)), "found": max(map(int, said))}
