"""Code that compiles for absent machines, in a process of its own.

A process that has imported Triton to interpret cannot compile, libtpu reads its flags
once, and the test runner's processes are shared by many files. So one child that has
imported what compilers need is kept, and each piece of code runs in a fork of it: no
device has been looked for yet, and what the code changes ends with it.
"""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.bench import targets
from tests import budget

_ROOT = Path(__file__).parent.parent
_SERVER = """
import json, os, sys, traceback, warnings
import jax, jax.experimental.topologies, jax.experimental.pallas.tpu
import jax_triton, triton
import experiments.bench.gpu, experiments.bench.tpu
import pallas_kernels.flash.mosaic_tpu, pallas_kernels.flash.triton_gpu
import pallas_kernels.decayed_linear, pallas_kernels.prefix_softmax
import pallas_kernels.softmax_statistics

warnings.filterwarnings("ignore", "os.fork")
for line in sys.stdin:
  code, folder = json.loads(line)
  pid = os.fork()
  if not pid:
    for number, name in ((1, "out"), (2, "err")):
      os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    try:
      exec(compile(code, "<child>", "exec"), {"__name__": "child"})
      status = 0
    except BaseException:
      traceback.print_exc()
      status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  _, status, used = os.wait4(pid, 0)
  print(json.dumps([status, used.ru_utime + used.ru_stime]), flush=True)
"""


def child(code: str) -> Any:
  """Returns what the code prints last, read as JSON; AssertionError if it fails."""
  server = _server()
  assert server.stdin and server.stdout
  with tempfile.TemporaryDirectory() as folder:
    server.stdin.write(json.dumps([code, folder]) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    if not answer:
      raise AssertionError("the process that compiles has died")
    status, seconds = json.loads(answer)
    budget.elsewhere(seconds)
    if status:
      raise AssertionError(Path(folder, "err").read_text(encoding="utf-8")[-3000:])
    said = Path(folder, "out").read_text(encoding="utf-8")
  return json.loads(said.splitlines()[-1])


@functools.cache
def _server() -> subprocess.Popen:
  server = subprocess.Popen(
    [sys.executable, "-c", _SERVER],
    cwd=_ROOT,
    env=targets.environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(server.kill)
  return server
