"""Published networks trained by the application: configs, sizes, runs."""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import contract
from attnjax.contract import networks
from attnjax.models import backbone as host
from configs import backbone
from experiments import build, configuration, data, evaluate, run
from experiments.training import objective

_NETWORKS = tuple(attnjax.systems(form="backbone"))


def _read(*arguments):
  """The config of a command line."""
  line = ["run", "--config", backbone.__file__ + arguments[0], *arguments[1:]]
  with mock.patch.object(sys, "argv", line):
    return configuration.read_config(configuration.parse(lambda values: None))


class ConfigTest(parameterized.TestCase):
  def test_options_follow_the_size_until_they_are_set(self):
    changes = ["--config.model.depths=(1, 1, 2, 1)", "--config.model.size=large"]
    config = _read(":maxvit", *changes, "--config.model.drop=0")
    self.assertEqual(config.model.depths, (1, 1, 2, 1))
    self.assertEqual(config.model.dims, (128, 256, 512, 1024))
    self.assertEqual((config.model.drop, config.model.partition), (0.0, 7))
    self.assertEmpty(config.attention)
    held = configuration.to_json(config)
    self.assertEqual(json.loads(json.dumps(held)), held)

  def test_a_config_can_be_changed_in_a_program(self):
    config = backbone.get_config("halo")
    self.assertEqual(config.model.widths, (32, 64))
    config.model.size = "h7"
    self.assertEqual((config.model.last, config.model.bottleneck_ratio), (2048, 3.5))
    config.model.last = 3
    config.model.size = "h3"
    self.assertEqual((config.model.last, config.model.bottleneck_ratio), (3, 1.5))

  @parameterized.parameters(*_NETWORKS)
  def test_every_network_fits_the_data(self, slug):
    config, task = backbone.get_config(slug), data.load("mnist5k")
    self.assertEqual(config.model.size, "mini")
    model = jax.eval_shape(lambda: build.builder(config, task)(rngs=nnx.Rngs(0)))
    options = networks.sized(contract.load(slug), "mini")
    want = jax.eval_shape(
      lambda: contract.load(slug).Model(1, 10, **options, rngs=nnx.Rngs(0))
    )
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (model, want)]
    self.assertEqual(*map(str, shapes))
    example = {n: jax.numpy.stack([x] * 2) for n, x in task.source("train")[0].items()}
    made = objective.make(host, task)

    def loss(model, batch):
      given = model, model.init_stats(), batch, jax.random.key(0)
      return made.totals(made.predict(*given, train=True)[0], batch)

    totals = jax.eval_shape(loss, model, example)
    self.assertEqual(totals["loss"].shape, ())
    self.assertLess(sum(leaf.size for leaf in jax.tree.leaves(model)), 1e6)

  def test_a_size_by_its_name(self):
    builds = [contract.constructor("davit", {}, host.FORMS)]

    def make(**options):
      return host.Model(builds, channels=1, classes=2, rngs=nnx.Rngs(0), **options)

    made = jax.eval_shape(lambda: make(size="small", depths=(1, 1, 2, 1)))
    self.assertEqual(
      [len(stage.sequence) for stage in made.stages.stages], [2, 2, 4, 2]
    )
    with self.assertRaisesRegex(ValueError, "size of davit 'smal'; did you mean small"):
      make(size="smal")


class RunTest(absltest.TestCase):
  def test_trains_and_is_opened_again(self):
    config = backbone.get_config("halo")
    config.steps, config.eval_batches, config.data.batch = 2, 1, 8
    config.model.depths, config.model.remat = (1, 1), "full"
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(config, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual((summary["mechanism"], summary["host"]), ("halo", "backbone"))
    self.assertIn("block 1, head 3", (workdir / "report.html").read_text())
    with contextlib.redirect_stdout(io.StringIO()) as out:
      evaluate.main(["--workdir", str(workdir), "--batches", "1"])
    self.assertEqual(json.loads(out.getvalue())["step"], 2)


if __name__ == "__main__":
  absltest.main()
