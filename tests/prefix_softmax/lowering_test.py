"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_TPU = """
import json
from experiments.bench.kernels import prefix_softmax as bench

rows = [bench._tpu_row({machine!r}, kernel, {E}, False) for kernel in bench.BOUND]
print(json.dumps(rows))
"""
_GPU = """
import json
from experiments.bench.kernels import prefix_softmax as bench

print(json.dumps(bench.gpu_rows({capability}, {E}, {dtype!r})))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from pallas_kernels import prefix_softmax

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)
spec = NamedSharding(mesh, P("data", None, "model"))
s = jax.ShapeDtypeStruct((2, 512, 4), jnp.float32, sharding=spec)
v = jax.ShapeDtypeStruct((2, 512, 4, 128), jnp.bfloat16, sharding=spec)

def loss(s, v):
  out, _, _ = prefix_softmax.prefix(s, v, impl="pallas")
  return out.astype(jnp.float32).sum()

with jax.set_mesh(mesh):
  text = jax.jit(jax.grad(loss, (0, 1))).lower(s, v).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent)))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", 128), ("v6e", 80))
  def test_tpu_within_the_estimate(self, machine, E):
    rows = child(_TPU.format(machine=machine, E=E))
    self.assertEqual([row["kernel"] for row in rows], ["forward", "backward"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 2)
    self.assertEqual(found["sent"], [])

  @parameterized.parameters((120, 128, "bfloat16"), (90, 160, "float32"))
  def test_gpu_without_spills(self, capability, E, dtype):
    rows = child(_GPU.format(capability=capability, E=E, dtype=dtype))
    self.assertEqual([row["part"] for row in rows], ["forward", "backward"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)
      self.assertLess(row["shared"], 99 * 1024)


if __name__ == "__main__":
  absltest.main()
