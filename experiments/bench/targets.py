"""Compilers for TPUs and GPUs that need not be there.

`make` puts libtpu, jax's CUDA plugin and CUDA's assembler in a folder apart, `machines`
in the virtual environment, since JAX would look for a TPU wherever it finds libtpu.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(sys.prefix) / "machines"
# The assembler of CUDA 13.0, the oldest that jax[cuda13] allows: jaxlib assembles a
# kernel with the user's, whatever Triton carries.
PTXAS = FOLDER / "nvidia" / "cu13" / "bin" / "ptxas"
# Answers what libtpu asks the network for on a machine that is no TPU host, and allows
# several processes at a time, which may compile though they could not share a chip.
SETTINGS = {
  "JAX_PLATFORMS": "cpu",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def enable() -> None:
  """Lets this process compile for absent machines; call before jax is imported."""
  os.environ.update(SETTINGS)
  if FOLDER.is_dir() and str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))


def environment() -> dict[str, str]:
  """Returns the environment of a child process that compiles."""
  own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
  paths = [str(FOLDER), *filter(None, [own.get("PYTHONPATH")])]
  return own | SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)}
