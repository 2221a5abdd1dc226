"""The contrastive loss on eight devices, in a process of its own.

python -m tests.contrastive.eight_devices    prints one JSON object
"""

import os

os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import json  # noqa: E402
import warnings  # noqa: E402
from unittest import mock  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import attnjax  # noqa: E402
from attnjax.core.contrastive import axes  # noqa: E402
from tests.contrastive import problems  # noqa: E402

NQ, NI = 48, 40


def given():
  """Returns (q, items, log_scale, labels, mask, groups) of rows for all devices."""
  draw = np.random.default_rng(3)
  q, items = (jnp.asarray(draw.standard_normal((n, 6)), "float32") for n in (NQ, NI))
  labels, mask = draw.integers(-1, NI, NQ), draw.random((NQ, NI)) < 0.7
  groups = draw.integers(-1, 9, NQ), draw.integers(-1, 9, NI)
  return q, items, jnp.float32(0.2), labels, mask, groups


def value_and_gradients(q, items, t, labels, mask, groups):
  """Returns (loss, its gradients) in plain JAX."""
  more = {"labels": labels, "mask": mask, "groups": groups, "impl": "xla"}

  def loss(q, items, t):
    return attnjax.contrastive_loss(q, items, log_scale=t, **more)

  return jax.value_and_grad(loss, (0, 1, 2))(q, items, t)


def sharded(kind: AxisType, want) -> dict:
  """Returns errors, where gradients lie, scores of a device, and warnings."""
  mesh, rows = jax.make_mesh((8,), ("x",), (kind,)), P("x")
  specs = rows, rows, P(), rows, rows, (rows, rows)
  put = jax.device_put(given(), jax.tree.map(lambda s: NamedSharding(mesh, s), specs))
  with jax.set_mesh(mesh), warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    program = jax.jit(value_and_gradients).lower(*put).compile()
  got, text = program(*put), program.as_text()
  kept = [a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in zip(got[1], put)]
  scores = f"f32[{NQ // 8},{NI}]" in text, f"f32[{NQ},{NI}]" in text
  said = [str(w.message) for w in caught if "gathers" in str(w.message)]
  return {"error": error(got, want), "kept": kept, "scores": scores, "said": said}


def inside(want, most: int) -> dict:
  """Returns the error inside of a checked shard_map, and how rows are sent."""
  mesh, rows = jax.make_mesh((8,), ("x",), (AxisType.Auto,)), P("x")
  specs = rows, rows, P(), rows, rows, (rows, rows)

  def loss(q, items, t, labels, mask, groups):
    more = {"labels": labels, "mask": mask, "groups": groups, "impl": "xla"}
    return attnjax.contrastive_loss(q, items, log_scale=t, axis="x", **more)

  def run(*x):
    return jax.value_and_grad(loss, (0, 1, 2))(*x)

  with mock.patch.object(axes, "GATHERED", most):
    call = jax.shard_map(
      run, mesh=mesh, in_specs=specs, out_specs=(P(), (rows, rows, P()))
    )
    program = jax.jit(call).lower(*given()).compile()
  return {
    "error": error(program(*given()), want),
    "ring": " collective-permute(" in program.as_text(),
  }


def error(got, want) -> float:
  """Returns the greatest difference."""
  gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), got, want)
  return max(jax.tree.leaves(gaps))


if __name__ == "__main__":
  expected = problems.expected(*given())
  print(
    json.dumps(
      {
        "auto": sharded(AxisType.Auto, expected),
        "explicit": sharded(AxisType.Explicit, expected),
        "gathered": inside(expected, 1 << 20),
        "ring": inside(expected, 0),
      }
    )
  )
