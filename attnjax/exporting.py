"""Programs with their fused kernels in them, for machines without Triton.

`jax.export` keeps a traced and lowered program as bytes. A kernel of Triton is compiled
to PTX while it is lowered, so a machine that runs the bytes needs jax with its CUDA
plugin, flatbuffers and a `ptxas` (which jax[cuda13] brings), but neither Triton nor
attnjax; and the program can be made where there is no GPU at all.

  exported = attnjax.export(step, device="NVIDIA H100")(x, state)
  Path("step.jax").write_bytes(exported.serialize())

and there

  from jax import export
  step = export.deserialize(bytearray(Path("step.jax").read_bytes())).call

Each kernel adds 60 to 100 KB. An export with kernels of Triton is for that compute
capability and for machines of the same jaxlib version: the content of the custom call
is no stable format, which is why jax.export takes it only with a check switched off.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import export as jax_export
from jax.sharding import AbstractDevice, AbstractMesh

from attnjax.core import platform

# A custom call of jaxlib itself: it is registered wherever jax has its CUDA plugin.
_CHECKS = [jax_export.DisabledSafetyCheck.custom_call("triton_kernel_call_ffi")]
_PLATFORMS = {"gpu": "cuda", "tpu": "tpu", "cpu": "cpu"}


def export(
  function: Callable[..., Any], *, device: str = "NVIDIA H100"
) -> Callable[..., jax_export.Exported]:
  """Returns a function of arguments, or their shapes, that exports `function`.

  Its result is an `Exported`. Inside, impl="auto" takes the kernels that are made for
  the device.

  Args:
    function: of pytrees of arrays; `jax.jit` need not be around it.
    device: the maker's name of it ("NVIDIA H100", "NVIDIA L4", "TPU v5 lite"), or
      "cpu".

  Raises:
    ValueError: if no kernels are known for the device.
    ImportError: without flatbuffers, or a package that compiles the kernels.
  """
  described = _described(device)
  jitted: Any = function if hasattr(function, "trace") else jax.jit(function)
  make = jax_export.export(
    jitted,
    platforms=[_PLATFORMS[described.platform]],
    disabled_checks=_CHECKS if described.platform == "gpu" else [],
  )

  def traced(*arguments, **named) -> jax_export.Exported:
    mesh = AbstractMesh((1,), ("device",), abstract_device=described)
    with jax.sharding.use_abstract_mesh(mesh):
      return make(*arguments, **named)

  return traced


def _described(device: str) -> AbstractDevice:
  if device == "cpu":
    return AbstractDevice("cpu", None, "cpu")
  if device.startswith("TPU "):
    return AbstractDevice(device, None, "tpu")
  described = AbstractDevice(device, None, "gpu")
  mesh = AbstractMesh((1,), ("device",), abstract_device=described)
  with jax.sharding.use_abstract_mesh(mesh):
    if platform.target_capability() is None:
      raise ValueError(
        f"device {device!r} is none that kernels are known for; it must be the name of"
        ' an NVIDIA GPU ("NVIDIA H100"), of a TPU ("TPU v5 lite"), or "cpu"'
      )
  return described
