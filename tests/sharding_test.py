"""Eight devices give what one gives."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from attnjax import sharding
from attnjax.core.devices import naming
from experiments import run
from tests import run_test

_ROOT = Path(__file__).parent.parent


def eight_devices(name):
  """What a function of tests.eight_devices returns, in a process with eight."""
  command = [sys.executable, "-m", "tests.eight_devices", name]
  done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
  if done.returncode:
    raise AssertionError(done.stderr)
  return json.loads(done.stdout.splitlines()[-1])


class ShardingTest(parameterized.TestCase):
  def test_training_on_a_mesh_gives_the_losses_of_one_device(self):
    found = eight_devices("train")
    with tempfile.TemporaryDirectory() as folder:
      config = run_test.tiny(steps=20, data__batch=8, eval_every=20, save_every=10)
      run.run(config, Path(folder))
      want = run_test.losses(folder)
    self.assertEqual([x[:2] for x in found["losses"]], [list(x[:2]) for x in want])
    np.testing.assert_allclose(
      [x[2] for x in found["losses"]], [x[2] for x in want], rtol=1e-4
    )
    spec = str(P(None, "data", "model", None))
    self.assertEqual(found["query"], [spec, [1, 4, 2, 4]])
    self.assertEqual(found["moment"], spec)

  @parameterized.parameters("meshes", "told")
  def test_attention_is_divided_as_its_arguments_are(self, which):
    for name, found in eight_devices(which).items():
      with self.subTest(name):
        self.assertLess(found["error"], 1e-4)
        self.assertEqual(found["sent"], [])
        self.assertEqual(found["kept"], [True] * 6)

  def test_tokens_that_are_divided_are_gathered_with_a_warning(self):
    found = eight_devices("tokens")
    self.assertLess(found["error"], 1e-4)
    self.assertRegex(found["said"][0], r"\(8, 32, 4, 8\) is sharded over its axis 1")

  def test_attention_runs_inside_a_checked_shard_map(self):
    for name, error in eight_devices("inside").items():
      with self.subTest(name):
        self.assertLess(error, 1e-4)

  def test_prefix_softmax_takes_explicit_axes(self):
    for form, error in eight_devices("prefix_softmax").items():
      with self.subTest(form):
        self.assertLess(error, 1e-4)

  def test_attention_runs_on_each_device_s_batches_and_heads(self):
    found = eight_devices("attention")
    self.assertLess(found["error"], 1e-4)
    self.assertEqual(found["sent"], [])

  def test_what_does_not_divide_is_named(self):
    found = eight_devices("refusals")
    self.assertRegex(
      found["devices"],
      "mesh.data = 3 x mesh.model = 2 asks for 6 devices, and there are 8",
    )
    self.assertRegex(found["batch"], r"data.batch = 12 .* mesh.data = 8")
    self.assertRegex(
      found["heads"], r"mixer/.*kernel.*: 2 does not divide by mesh.model"
    )
    self.assertRegex(found["both"], "only one can be the rest")

  def test_names_say_what_axes_divide(self):
    mesh = jax.sharding.AbstractMesh(
      (2, 2, 2), ("fsdp", "context", "tensor"), (AxisType.Auto,) * 3
    )
    labels, shapes = (("batch", None, "heads"),), ((4, 8, 2),)
    found = naming.chosen(labels, shapes, mesh, {}, None)
    self.assertEqual(found, {"heads": ("tensor",), "batch": ("fsdp",)})

    kinds = (AxisType.Auto, AxisType.Explicit, AxisType.Explicit)
    mesh = jax.sharding.AbstractMesh((2, 2, 2), ("fsdp", "data", "tensor"), kinds)
    self.assertEqual(
      naming.chosen(labels, shapes, mesh, {}, None), {"batch": ("fsdp",)}
    )

    with self.assertWarnsRegex(UserWarning, r"\['rows'\] divide batches"):
      self.assertEqual(naming.by_name(["rows", "tp"]), (("rows",), ("tp",)))
    with self.assertRaisesRegex(ValueError, "'a' twice"):
      with sharding.mesh_axes(batch="a", heads="a"):
        pass

  def test_unknown_parameters_are_sharded_on_their_largest_dimension(self):
    mesh = jax.make_mesh((1, 1), sharding.AXES)
    tree = {"odd": jax.ShapeDtypeStruct((3, 8, 4), "float32"), "bias": np.zeros(8)}
    found = sharding.parameter_shardings(tree, mesh)
    self.assertEqual(found["odd"].spec, P(None, "data"))
    self.assertEqual(found["bias"].spec, P())


if __name__ == "__main__":
  absltest.main()
