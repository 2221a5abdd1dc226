"""Networks of stages: the loops over stages and blocks, and the classifier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn import running, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.norms import BatchNorm
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages


class _Block(nnx.Module):
  """x + sin(norm(x w)), and the key's noise; the weights tell the block's number."""

  init_stats = running.init_stats

  def __init__(self, dim, *, rngs):
    self.linear, self.norm = nnx.Linear(dim, dim, rngs=rngs), BatchNorm(dim)

  def __call__(self, x, *, index, key=None, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    noise = 0 if key is None else jax.random.normal(key, x.shape)
    return carry.result(x + jnp.sin(carry(self.norm, self.linear(x))) + noise + index)

  def weights(self, x, *, index, stats):
    return [jnp.full((x.shape[0], 1, 2, 2), index) + stats["norm"].mean[0]]


class _Plain(nnx.Module):
  """x w; it does not attend."""

  def __init__(self, dim, *, rngs):
    self.linear = nnx.Linear(dim, dim, rngs=rngs)

  def __call__(self, x, *, index, key=None):
    return self.linear(x)


class _Pool(nnx.Module):
  """The greatest of the map, and the key's noise."""

  def __call__(self, x, *, key=None):
    noise = 0 if key is None else jax.random.normal(key, (x.shape[0], x.shape[3]))
    return x.max(axis=(1, 2)) + noise

  def weights(self, x):
    return [x[..., :1].swapaxes(1, 3)]


def _model(remat="none", pool=None) -> Any:
  rngs = nnx.Rngs(0)
  merges = [Patches(3, 4, 2, rngs=rngs), None, Patches(4, 6, 2, rngs=rngs)]
  stages = [
    Stage([_Block(4, rngs=rngs), _Plain(4, rngs=rngs)], remat=remat),
    Stage([_Plain(4, rngs=rngs), _Block(4, rngs=rngs)], remat=remat),
    Stage([_Block(6, rngs=rngs)], remat=remat),
  ]
  norm = transformer.layer_norm(6, rngs=rngs)
  body = Stages(stages, merges=merges, norm=norm)
  top = transformer.layer_norm(6, rngs=rngs)
  return Classifier(None, body, nnx.Linear(6, 5, rngs=rngs), pool=pool, norm=top)


IMAGES = jax.random.normal(jax.random.key(0), (2, 5, 8, 3))


class BackboneTest(parameterized.TestCase):
  def test_is_its_parts_one_after_the_other(self):
    model = _model()

    @jax.jit
    def run(model, x, key):
      given = {"stats": model.init_stats(), "train": True}
      logits, stats = model(x, key=key, **given)
      maps, _ = model.features(x, key=key, **given)
      body, found, held = model.stages, [], given["stats"]["stages"]
      for number, stage in enumerate(body.stages):
        merge = body.merges[number]
        x = x if merge is None else merge(x)
        own = jax.random.fold_in(key, number)
        draws = jax.random.split(own, len(stage.sequence))
        for index, (block, draw) in enumerate(zip(stage.sequence, draws)):
          if isinstance(block, _Plain):
            x = block(x, index=index)
            continue
          held_by = held[f"stages/{number}"][f"sequence/{index}"]
          how = {"key": draw, "stats": held_by, "train": True}
          x, _ = block(x, index=index, **how)
        found.append(x)
      found[-1] = body.norms[2](found[-1])
      pooled = found[-1].mean((1, 2))
      return (logits, maps), (model.head(model.norm(pooled)), found), stats

    got, want, stats = run(model, IMAGES, jax.random.key(1))
    jax.tree.map(_close, got, want)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, model.init_stats())
    self.assertTrue(all(jax.tree.leaves(changed)))
    self.assertLen(jax.tree.leaves(changed), 2 * 3)

  @parameterized.parameters("full", "dots")
  def test_remat_changes_nothing(self, policy):
    def slope(model, x, key):
      def loss(model):
        logits, stats = model(x, key=key, stats=model.init_stats(), train=True)
        return jnp.sin(logits).sum(), (logits, stats)

      return jax.grad(loss, has_aux=True)(model)

    run = jax.jit(slope)
    got, want = (
      run(_model(remat), IMAGES, jax.random.key(1)) for remat in (policy, "none")
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      _close(a, b)

  def test_weights_are_of_the_blocks_that_attend(self):
    model = _model(pool=_Pool())
    stats = jax.tree.map(lambda leaf: leaf + 10.0, model.init_stats())
    found = model.weights(IMAGES, stats=stats)
    self.assertEqual([float(w.mean()) for w in found[:3]], [10, 11, 10])
    maps, _ = model.features(IMAGES, stats=stats)
    self.assertLen(found, 4)
    _close(found[3], maps[-1][..., :1].swapaxes(1, 3))

  def test_a_pool_takes_the_last_map_and_a_key_of_its_own(self):
    model = _model(pool=_Pool())
    stats = model.init_stats()
    logits, _ = model(IMAGES, stats=stats)
    maps, _ = model.features(IMAGES, stats=stats)
    _close(logits, model.head(model.norm(maps[-1].max((1, 2)))))
    other, _ = model(IMAGES, key=jax.random.key(0), stats=stats)
    self.assertGreater(jnp.abs(other - logits).max(), 1e-3)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "unknown remat 'some'"):
      Stage([], remat="some")
    with self.assertRaisesRegex(ValueError, "merges = .*one entry a stage"):
      Stages([Stage([])], merges=[None, None])
    with self.assertRaisesRegex(ValueError, "has batch norm"):
      _model()(IMAGES)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
