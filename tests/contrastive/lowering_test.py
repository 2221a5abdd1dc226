"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_TPU = """
import json
from experiments.bench.kernels import contrastive as bench

print(json.dumps(bench.tpu_rows({machine!r}, {D}, {case!r}, compare={compare})))
"""
_GPU = """
import json
from experiments.bench.kernels import contrastive as bench

print(json.dumps(bench.gpu_rows({capability}, {D}, {case!r}, {dtype!r})))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import attnjax

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices), ("data",), (AxisType.Auto,))
x = jax.ShapeDtypeStruct((4096, 256), jnp.bfloat16,
                         sharding=NamedSharding(mesh, P("data")))

def loss(q, items):
  return attnjax.contrastive_loss(q, items, log_scale=0.0, impl="pallas")

with jax.set_mesh(mesh):
  text = jax.jit(jax.grad(loss, (0, 1))).lower(x, x).compile().as_text()
found = [name in text for name in ("f32[1024,256]", "f32[4096,256]", "[4096,4096]")]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), found=found)))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", 512, "diagonal", True))
  def test_tpu_within_the_estimate(self, machine, D, case, compare):
    given = {"machine": machine, "D": D, "case": case, "compare": compare}
    rows = child(_TPU.format(**given))
    self.assertEqual([row["kernel"] for row in rows], ["forward", "backward"])
    for row in rows:
      self.assertEqual(row["problems"], "", f"{row}")

  def test_each_device_has_rows_of_its_own(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 4)
    self.assertEqual(found["found"], [True, False, False])

  @parameterized.parameters((90, 512, "mask", "bfloat16"))
  def test_gpu_without_spills(self, capability, D, case, dtype):
    given = {"capability": capability, "D": D, "case": case, "dtype": dtype}
    rows = child(_GPU.format(**given))
    self.assertEqual([row["part"] for row in rows], ["forward", "backward"])
    for row in rows:
      self.assertEqual(row["problems"], "", f"{row}")


if __name__ == "__main__":
  absltest.main()
