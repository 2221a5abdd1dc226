"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ROWS = """
import json
from experiments.bench.kernels import paged_decode as bench

print(json.dumps(bench.{kind}_rows({machine!r}, *{heads})))
"""
_PEER = """
import json
from experiments.bench.kernels import paged_decode as bench

print(json.dumps(bench.peer_row("v5e", 32, 8, 128)))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import attnjax

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)

def array(shape, dtype, *spec):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

q = array((4, 16, 128), jnp.bfloat16, "data", "model")
pages = array((64, 16, 4, 128), jnp.bfloat16, None, None, "model")
table = array((4, 1, 8), jnp.int32, "data")
lengths = array((4, 1), jnp.int32, "data")

def run(*arrays):
  return attnjax.paged_decode(*arrays, page_scores=True, impl="pallas")

with jax.set_mesh(mesh):
  compiled = jax.jit(run).lower(q, pages, pages, table, lengths).compile()
text = compiled.as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
out = compiled.output_shardings.out.spec
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent, out=str(out))))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tpu", "v5e", (32, 8, 128)),
    ("gpu", 90, (32, 8, 128)),
    ("gpu", 120, (16, 16, 64, "float32")),
    ("gpu", 100, (8, 1, 256, "float32")),
  )
  def test_compiles(self, kind, machine, heads):
    rows = child(_ROWS.format(kind=kind, machine=machine, heads=heads))
    names = [row["kernel" if kind == "tpu" else "part"] for row in rows]
    self.assertEqual(names, ["plain", "scores"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)
      if machine == "v5e":
        self.assertGreaterEqual(row["share"], 0.86, row)

  def test_peer_is_read_by_the_same_compiler(self):
    row = child(_PEER)
    self.assertEqual((row["kernel"], row["tokens"]), ("jax", 512))
    self.assertGreater(row["bundles"], 1000)

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 1)
    self.assertEqual(found["sent"], [])


if __name__ == "__main__":
  absltest.main()
