"""The device that a traced program will run on, as far as tracing can know.

In this order: the abstract mesh in force, which `jax.set_mesh` and ahead-of-time
lowering set; `jax.default_device`; JAX's first device. `jax.default_backend` alone
would name the GPU of a host that evaluates on its CPU.
"""

import re

import jax

# Compute capabilities by patterns of a GPU's name. The first that matches counts.
_CAPABILITIES = (
  (r"GB10\b", 121),
  (r"RTX PRO|RTX 50\d0", 120),
  (r"Thor", 110),
  (r"G?B300", 103),
  (r"G?B200", 100),
  (r"G?H[128]00|H20\b", 90),
  (r"L20|L40?S?\b|RTX 40\d0|Ada Generation", 89),
  (r"Orin", 87),
  (r"A10G?\b|A16|A2\b|A40\b|RTX A\d+|RTX 30\d0", 86),
  (r"A[18]00|A30\b", 80),
  (r"T4\b|Quadro RTX|RTX 20\d0|TITAN RTX", 75),
)


def target_platform() -> str:
  """Returns the platform that a program will run on: "cpu", "gpu" or "tpu"."""
  device = _chosen()
  if device is None:
    return jax.default_backend()
  platform = device if isinstance(device, str) else device.platform
  return "gpu" if platform in ("cuda", "rocm") else platform


def target_kind() -> str:
  """Returns the name that the device's maker gave it, such as "TPU v5 lite"."""
  return _device().device_kind


def target_capability() -> int | None:
  """Returns the GPU's compute capability, 90 for an H100; None for other devices."""
  device = _device()
  known = getattr(device, "compute_capability", None)
  if known is not None:
    # ROCm's devices have the name of an architecture here.
    return int(float(known) * 10 + 0.5) if re.fullmatch(r"\d+\.\d+", known) else None
  kind = device.device_kind
  if device.platform not in ("gpu", "cuda"):
    return None
  return next((c for name, c in _CAPABILITIES if re.search(rf"\b{name}", kind)), None)


def _chosen():
  """Returns the device that is set, its description or its platform's name, or None."""
  described = jax.sharding.get_abstract_mesh().abstract_device
  return jax.config.jax_default_device if described is None else described


def _device():
  device = _chosen()
  if device is None or isinstance(device, str):
    return jax.local_devices(backend=device)[0]
  return device
