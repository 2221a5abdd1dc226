"""The kernels compile for TPUs and GPUs that are not here, within their limits."""

from absl.testing import absltest, parameterized

from experiments.bench.kernels.decayed_linear import USED
from tests.compiling import child

_HEADER = """
import json
from experiments.bench.kernels import decayed_linear as bench
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from pallas_kernels import decayed_linear

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)

def shape(*sizes, spec=P("data", None, "model"), dtype="bfloat16"):
  return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, spec))

q, k, g = shape(2, 256, 4, 128), shape(2, 256, 2, 128), shape(1, 256, 4, spec=P())

def loss(q, k, v, g):
  out, state = decayed_linear.attend(q, k, v, g.astype(jnp.float32), impl="pallas")
  return out.astype(jnp.float32).sum() + state.sum()

with jax.set_mesh(mesh):
  text = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(q, k, k, g).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent)))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", 128, 128), ("v6e", 192, 80))
  def test_tpu(self, machine, H, E):
    call = f"bench._tpu_rows({machine!r}, {H}, {E})"
    rows = child(f"{_HEADER}print(json.dumps(list({call})))")
    self.assertEqual([r["kernel"] for r in rows], ["forward", "states", "backward"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)
      if (H, E) == (128, 128) and row["kernel"] != "states":
        self.assertGreaterEqual(row["used"], USED)

  @parameterized.parameters((80, 128, 128), (90, 80, 128))
  def test_gpu(self, capability, H, E):
    call = f"bench._gpu_rows({capability}, {H}, {E})"
    rows = child(f"{_HEADER}print(json.dumps(list({call})))")
    names = ["states", "output", "states back", "keys", "values"]
    if (H, E) == (128, 128):  # few programs: the states are made in two passes
      names = ["ends", "states", "output", "ends back", *names[2:]]
    self.assertEqual([r["part"] for r in rows], names)
    for row in rows:
      self.assertEqual(row["problems"], "", row)

  def test_gpu_in_two_passes(self):
    which = (90, 128, "ends back"), (100, 128, "back"), (120, 64, "ends back")
    calls = (f"*bench._gpu_rows({c}, {H}, {H}, only={name!r})" for c, H, name in which)
    rows = child(f"{_HEADER}print(json.dumps([{', '.join(calls)}]))")
    names = ["ends back", "ends back", "states back", "ends back"]
    self.assertEqual([r["part"] for r in rows], names)
    for row in rows:
      self.assertEqual(row["problems"], "", row)

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 2)
    self.assertEqual(found["sent"], [])


if __name__ == "__main__":
  absltest.main()
