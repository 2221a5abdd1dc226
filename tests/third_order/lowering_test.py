"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_TPU = """
import json
from experiments.bench.kernels import third_order as bench

print(json.dumps(bench.tpu_rows({machine!r}, {H}, {case!r}, compare={compare})))
"""
_GPU = """
import json
from experiments.bench.kernels import third_order as bench

print(json.dumps(bench.gpu_rows({capability}, {H}, {case!r}, {dtype!r})))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from attnjax.core.third_order import Sight
from pallas_kernels import third_order

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)
spec = NamedSharding(mesh, P("data", None, "model"))
q = jax.ShapeDtypeStruct((2, 128, 4, 64), jnp.bfloat16, sharding=spec)
k = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.bfloat16, sharding=spec)

def loss(*x):
  out, _ = third_order.attend(*x, sight=Sight(0.1, True, (8, 0)), impl="pallas")
  return out.astype(jnp.float32).sum()

with jax.set_mesh(mesh):
  run = jax.jit(jax.grad(loss, range(5)))
  text = run.lower(q, k, k, k, k).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent)))
"""
_PASSES = ["forward", "queries", "keys"]


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", 128, "causal", True), ("v6e", 80, "packed", False))
  def test_tpu_within_the_estimate(self, machine, H, case, compare):
    given = {"machine": machine, "H": H, "case": case, "compare": compare}
    rows = child(_TPU.format(**given))
    self.assertEqual([row["kernel"] for row in rows], _PASSES)
    for row in rows:
      self.assertEqual(row["problems"], "", f"{row}")

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 4)
    self.assertEqual(found["sent"], [])

  @parameterized.parameters(
    (80, 128, "causal", "bfloat16"),
    (90, 128, "windows", "bfloat16"),
    (100, 128, "packed", "bfloat16"),
    (120, 32, "causal", "float32"),
  )
  def test_gpu_without_spills(self, capability, H, case, dtype):
    given = {"capability": capability, "H": H, "case": case, "dtype": dtype}
    rows = child(_GPU.format(**given))
    self.assertEqual([row["part"] for row in rows], _PASSES)
    for row in rows:
      self.assertEqual(row["problems"], "", f"{row}")


if __name__ == "__main__":
  absltest.main()
