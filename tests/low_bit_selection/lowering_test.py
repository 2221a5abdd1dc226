"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ROWS = """
import json
from experiments.bench.kernels import low_bit_selection as bench

print(json.dumps(bench.{kind}_rows({machine!r}, {H})))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from attnjax.variants.sparse import sale

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)
spec = NamedSharding(mesh, P("data", None, "model"))
q = jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16, sharding=spec)
k = jax.ShapeDtypeStruct((2, 1024, 2, 64), jnp.bfloat16, sharding=spec)

with jax.set_mesh(mesh):
  run = jax.jit(lambda q, k, v: sale.attend(q, k, v, impl="pallas"))
  text = run.lower(q, k, k).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
found = dict(kernels=text.count("low_bit_selection"), sent=sent)
print(json.dumps(found))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tpu", "v5e", 128), ("tpu", "v6e", 64), ("gpu", 80, 128), ("gpu", 90, 64)
  )
  def test_compiles(self, kind, machine, H):
    rows = child(_ROWS.format(kind=kind, machine=machine, H=H))
    names = [row["kernel" if kind == "tpu" else "part"] for row in rows]
    self.assertEqual(names, ["tokens", "groups"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 1)
    self.assertEqual(found["sent"], [])


if __name__ == "__main__":
  absltest.main()
