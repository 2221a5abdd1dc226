"""Reducers of tokens by their names, in stacks, hosts and configs."""

import sys
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language, vision
from attnjax.nn.reduced import Tokens
from configs import vit
from experiments import build, configuration, data

EVIT = "token_reorganization"


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


def _builds(host, slug="dot_product"):
  return [contract.constructor(slug, {"heads": 2}, host.FORMS)]


class TextTest(parameterized.TestCase):
  def test_blocks_and_options(self):
    text = f"1+3:{EVIT}:keep_ratio=0.5,fuse=false,prefix=2,score=norm;2:{EVIT}"
    found = contract.reducers(text)
    self.assertEqual(sorted(found), [1, 2, 3])
    first, second = (found[i](8, rngs=nnx.Rngs(0)) for i in (3, 2))
    self.assertEqual((first.keep_ratio, first.fuse, first.prefix), (0.5, False, 2))
    self.assertEqual((first.score, second.keep_ratio, second.fuse), ("norm", 0.7, True))
    self.assertEqual(contract.reducers(""), {})
    self.assertEqual(contract.reducers({2: len}), {2: len})

  @parameterized.parameters(
    (f"x:{EVIT}", "'x' is no number of a block"),
    (f"1+1:{EVIT}", "'1' is no number of a block, each once"),
    ("1:token_reorganisation", "did you mean token_reorganization"),
    ("1:dot_product", "dot_product.* of the form tokens"),
    (f"1:{EVIT}:kep=0.5", "option of token_reorganization 'kep'"),
    (f"1:{EVIT}:keep_ratio=some", "keep_ratio = 'some' is no float"),
    (f"1:{EVIT}:fuse=perhaps", "fuse = 'perhaps' is no bool"),
  )
  def test_errors_name_the_part(self, text, message):
    with self.assertRaisesRegex(ValueError, message):
      contract.reducers(text)


class TokensTest(absltest.TestCase):
  def test_all_are_as_they_were_left(self):
    whole = jnp.arange(5.0).reshape(1, 5, 1)
    first = Tokens.begun(whole).now(whole + 10)
    second = first.after(jnp.array([[[20.0], [21.0], [22.0]]]), jnp.array([[4, 0, 2]]))
    third = second.after(jnp.array([[[30.0]]]), jnp.array([[0]]))
    np.testing.assert_array_equal(second.all[0, :, 0], [21, 11, 22, 13, 20])
    np.testing.assert_array_equal(third.places, [[4]])
    np.testing.assert_array_equal(third.all[0, :, 0], [21, 11, 22, 13, 30])


class VisionTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    options: dict[str, Any] = {
      "channels": 1,
      "classes": 3,
      "dim": 8,
      "depth": 2,
      "mlp_ratio": 2.0,
    }
    options |= {"between": f"1:{EVIT}:keep_ratio=0.4", "rngs": nnx.Rngs(0)}
    cls.model = vision.Model(_builds(vision), **options)
    cls.images = jax.random.normal(jax.random.key(0), (2, 12, 16, 1))

  def test_is_its_blocks_one_by_one(self):
    @jax.jit
    def both(model, images):
      stack = model.stages.stages[0].stack
      x = model.stem(images).reshape(2, 12, 8)
      (_, _, first, _), (_, _, second, _) = stack.each()
      before = first(x, index=0)
      y, kept = stack.reducers[0](before)
      y = second(y, index=1, positions=kept)
      norm = model.stages.norms[0].part
      found = norm(before.at[jnp.arange(2)[:, None], kept].set(y))
      want = model.head(norm(y).mean(axis=1)), found.reshape(2, 3, 4, 8)
      got = model(images), model.features(images)[0]
      return got, want, model.trace(images), model.weights(images)

    (logits, found), want, trace, weights = both(self.model, self.images)
    _close(logits, want[0])
    _close(found, want[1])
    _close(trace.output, logits)
    # ceil(0.4 x 12) = 5 patches and the fused one.
    self.assertEqual([x.shape[1] for x in trace.hidden], [12, 6, 6])
    self.assertEqual([x.shape for x in weights], [(2, 2, 12, 12), (2, 2, 6, 6)])

  def test_mechanisms_must_take_sequences(self):
    build = contract.constructor("halo", {}, vision.FORMS)
    with self.assertRaisesRegex(ValueError, "'halo' has the forms .* takes sequence"):
      vision.Model(
        [build], channels=1, classes=2, between=f"1:{EVIT}", rngs=nnx.Rngs(0)
      )
    with self.assertRaisesRegex(ValueError, "between = 4: .* 4 blocks"):
      vision.Model(
        _builds(vision), channels=1, classes=2, between=f"4:{EVIT}", rngs=nnx.Rngs(0)
      )


class _Even(nnx.Module):
  """Keeps tokens 0, 2, 4, ..."""

  causal = True

  def __init__(self, dim, *, rngs):
    pass

  def __call__(self, x, **context):
    kept = jnp.arange(0, x.shape[1], 2, dtype=jnp.int32)
    return x[:, ::2], jnp.broadcast_to(kept, (x.shape[0], kept.size))


class LanguageTest(absltest.TestCase):
  def _model(self, between):
    options: dict[str, Any] = {"vocab": 17, "dim": 16, "depth": 2, "rngs": nnx.Rngs(0)}
    return language.Model(_builds(language), between=between, **options)

  def test_dropped_tokens_are_as_they_were(self):
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 17)
    ids = jnp.array([[4] * 5 + [2] * 4, [1] * 7 + [-1] * 2])

    @jax.jit
    def both(model, tokens):
      (_, _, first, _), (_, _, second, _) = model.stack.each()
      x = first(model._embed(tokens), index=0, segment_ids=ids)
      place, seen = jnp.arange(0, 9, 2), ids[:, ::2]
      y = second(x[:, ::2], index=1, positions=place, segment_ids=seen)
      want = model._logits(x.at[:, ::2].set(y))
      return model(tokens, segment_ids=ids), want, model(tokens)

    got, want, plain = both(self._model({1: _Even}), tokens)
    _close(got[0], want[0])
    _close(got[1, :7], want[1, :7])
    later = both(self._model({1: _Even}), tokens.at[:, 6:].add(1) % 17)[2]
    _close(later[:, :6], plain[:, :6])

  def test_no_reducer_that_sees_later_tokens(self):
    with self.assertRaisesRegex(ValueError, "token_reorganization.* later ones"):
      self._model(f"1:{EVIT}")
    model, tokens = self._model({1: _Even}), jnp.zeros((1, 4), jnp.int32)
    with self.assertRaisesRegex(NotImplementedError, r"reducers at \(1,\)"):
      model.trace(tokens)
    with self.assertRaisesRegex(NotImplementedError, "no step drops tokens"):
      model.step(tokens, model.init_cache(1, 4))


class ConfigTest(absltest.TestCase):
  def _config(self, *changes):
    line = ["run", "--config", vit.__file__, *changes]
    with mock.patch.object(sys, "argv", line):
      return configuration.read_config(configuration.parse(lambda values: None))

  def test_a_command_line_names_reducers(self):
    config = self._config(f"--config.model.between=1:{EVIT}:keep_ratio=0.5")
    task = data.load("mnist5k")

    def logits(images):
      model: Any = build.builder(config, task)(rngs=nnx.Rngs(0))
      found = model.weights(images)
      return model(images), found

    images = jax.ShapeDtypeStruct((2, 28, 28, 1), "float32")
    logits, weights = jax.eval_shape(logits, images)
    self.assertEqual(logits.shape, (2, 10))
    self.assertEqual([w.shape[2] for w in weights], [49, 26])

  def test_a_wrong_one_is_told(self):
    config = self._config(f"--config.model.between=1:{EVIT}:keep_ratio=2")
    with self.assertRaisesRegex(
      build.UserError, "keep_ratio = 2.0: it must be above 0"
    ):
      build.assemble(config)


if __name__ == "__main__":
  absltest.main()
