"""Running statistics in the trainer: measured, saved, and no parameters."""

import contextlib
import functools
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from jax.sharding import PartitionSpec as P

from attnjax.models import vision
from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from configs import induction, vit
from experiments import errors
from experiments.build import assemble
from experiments.data import pipeline
from experiments.pages import shows
from experiments.training import loop, objective, optimizer, step
from experiments.training.checkpoints import Checkpoints, flatten
from experiments.training.objectives import cross_entropy
from tests.sharding_test import eight_devices

_OBJECTIVE = objective.Objective(vision.inputs, cross_entropy.totals, "accuracy")
_MEAN, _DEVIATION = np.array([3.0, -0.5, 40.0]), np.array([0.1, 2.0, 5.0])


def _config():
  """A tiny vision model with batch norm in its layers, on images of 8 x 8."""
  c = vit.get_config("l2vit")
  c.attention.norm, c.attention.heads, c.attention.local_kernel = "batch", 2, 3
  c.attention.den_min = 1.0
  c.data.name, c.data.batch = "digits", 8
  c.model.dim, c.model.depth, c.model.patch = 8, 2, 2
  c.steps, c.log_every, c.eval_every, c.save_every, c.eval_batches = 4, 1, 2, 2, 2
  return c


@functools.cache
def _assembled():
  return assemble(_config())


def _data():
  return pipeline.training(_assembled().task.source("train"), seed=0, batch=8)


class _Model(nnx.Module):
  """Batch norm of the images, whose statistics no parameter moves; a linear head."""

  init_stats = running.init_stats

  def __init__(self):
    self.norm = BatchNorm(3, momentum=0.8)
    self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

  def __call__(self, images, *, key=None, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    pooled = jnp.square(carry(self.norm, images)).mean((1, 2))
    return carry.result(self.head(pooled))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _batch(key, number=64, side=16):
  """Images whose channels have the mean and deviation of above; the label is noise."""
  noise, labels = jax.random.split(jax.random.key(key))
  image = _MEAN + _DEVIATION * jax.random.normal(noise, (number, side, side, 3))
  return {"image": image, "label": jax.random.randint(labels, (number,), 0, 2)}


def _state(chain):
  model = _Model()
  state = {"step": jnp.int32(0), "model": model, "optimizer": chain.init(model)}
  return state | {"stats": running.init_stats(model), "memory": ()}


@functools.cache
def _updated(accumulate=1, dtype="float32"):
  """(chain, update) of the trainer, with a real rate and weight decay."""
  c = induction.get_config("dot_product").optimizer
  c.rate, c.weight_decay, c.warmup = 0.01, 0.5, 1
  chain = optimizer.make(c, 50)
  how = {"dtype": dtype, "accumulate": accumulate, "seed": 0}
  return chain, jax.jit(step.make_update(_OBJECTIVE, chain, **how))


class StepTest(parameterized.TestCase):
  def test_fifty_steps_measure_the_data_and_evaluation_uses_them(self):
    chain, update = _updated()
    state = _state(chain)
    for number in range(50):
      state, _ = update(state, _batch(number))
    stats, model = state["stats"]["norm"], state["model"]
    np.testing.assert_allclose(stats.mean, _MEAN, rtol=0.01)
    np.testing.assert_allclose(stats.var, _DEVIATION**2, rtol=0.01)
    self.assertGreater(np.abs(model.norm.scale - 1).max(), 0.01)  # it was trained
    batch = _batch(99, 2)
    batch["image"] += _DEVIATION  # its own statistics are others
    sums = jax.jit(step.make_evaluate(_OBJECTIVE, dtype="float32"))
    found, _ = sums(model, state["stats"], (), batch)
    x = np.asarray(batch["image"], np.float64)
    y = model.norm.scale * (x - _MEAN) / _DEVIATION + model.norm.bias
    logits = (y**2).mean((1, 2)) @ model.head.kernel + model.head.bias
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -log[np.arange(2), batch["label"]].sum()
    np.testing.assert_allclose(found["loss"], wanted, rtol=0.02)

  def test_one_step_is_the_definition_and_parts_are_the_whole(self):
    batch = _batch(3, 12, 4)
    rows = np.asarray(batch["image"], np.float64).reshape(-1, 3)
    for parts in (1, 4):
      chain, update = _updated(parts)
      state, totals = update(_state(chain), batch)
      stats = state["stats"]["norm"]
      np.testing.assert_allclose(stats.mean, 0.2 * rows.mean(0), rtol=1e-5)
      wanted = 0.8 + 0.2 * rows.var(0, ddof=1)
      np.testing.assert_allclose(stats.var, wanted, rtol=1e-5)
      self.assertEqual(totals["count"], 12)

  def test_statistics_are_float32_and_no_leaf_of_gradient_or_memory(self):
    chain, _ = _updated()
    state = _state(chain)
    for accumulate in (1, 2):
      _, update = _updated(accumulate, "bfloat16")
      after, _ = jax.eval_shape(update, state, _batch(0))
      self.assertEqual(_types(after), _types(state))
      kinds = {leaf.dtype for leaf in jax.tree.leaves(after["stats"])}
      self.assertEqual(kinds, {jnp.dtype("float32")})
    parameters = {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    self.assertEqual(set(flatten(state["model"])), parameters)
    held = jax.tree.leaves(state["optimizer"])
    self.assertLen([leaf for leaf in held if leaf.ndim], 2 * len(parameters))


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_goes_on_bit_equal_and_ends_with_pictures(self):
    whole = self._train("whole", until=9)
    half = self._train("cut", until=2, like=whole).state["stats"]
    got, want = self._train("cut", until=9, like=whole).state, whole.state
    self.assertEqual(got["step"], 4)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    norm = want["stats"]["stages"]["stages/0"]["blocks/0"]["mixer"]["concentrate"][
      "norm"
    ]
    self.assertEqual(norm.mean.shape, (2, 8))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).min(), half, want["stats"])
    self.assertGreater(min(jax.tree.leaves(moved)), 0)
    parts = shows.parts(whole)
    predictions, maps = parts["predictions"], parts["maps"]
    self.assertLen(predictions, 24)
    self.assertEqual(list(maps), ["block 0", "block 1"])

  def _train(self, name, until, like=None):
    """A run that stopped after a step, or at its end; `like`: has it compiled."""

    def compiled(trainer):
      trainer._update, trainer._evaluate = like._update, like._evaluate

    with contextlib.ExitStack() as stack:
      if like is not None:
        stack.enter_context(mock.patch.object(loop.Trainer, "_compile", compiled))
      trainer = loop.Trainer(_assembled(), self.folder / name, lambda text: None)

    class Stop:
      requested = property(lambda self: trainer.step >= until)

    trainer.run(Stop())  # type: ignore[arg-type]
    trainer.close()
    return trainer

  def _load(self, folder, step):
    found = Checkpoints(folder, keep=1, metric="accuracy")
    state = found.load(step, _assembled().state, _data())
    found.close()
    return state

  def test_a_checkpoint_without_statistics_is_refused(self):
    state = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), _assembled().state
    )
    del state["stats"]
    found = Checkpoints(self.folder, keep=1, metric="accuracy")
    found.save(1, state, _data(), {}, None)
    found.close()
    message = "running statistics of batch norm are missing"
    with self.assertRaisesRegex(errors.UserError, message):
      self._load(self.folder, 1)

  def test_models_without_batch_norm_have_the_checkpoints_of_before(self):
    c = _config()
    c.attention.norm = "layer"
    layer = assemble(c)
    self.assertEqual(layer.state["stats"], ())
    tops = {name.split("/")[0] for name in flatten(layer.state)}
    self.assertEqual(tops, {"step", "model", "optimizer"})
    self.assertEqual(_assembled().parameters(), layer.parameters())


class ShardingTest(absltest.TestCase):
  def test_a_batch_on_eight_devices_is_measured_whole(self):
    found = eight_devices("batch_norm")
    self.assertLess(found["error"], 1e-4)
    self.assertEqual(found["specs"], [str(P())])
    self.assertGreater(found["devices"], 1)


def _types(tree):
  return {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(tree).items()}


if __name__ == "__main__":
  absltest.main()
