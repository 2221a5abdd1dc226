"""Decoding of rows and samples under a policy, and policies by their names."""

import dataclasses
import functools
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language
from experiments import decoding, errors, generation
from tests import policies_test


@dataclasses.dataclass(frozen=True)
class _Options:
  keys: int = 4
  layers: tuple[int, ...] = ()
  share: float = 0.5
  strict: bool = False
  kind: str = "sum"


def _module(**parts):
  made = types.ModuleType("a_system")
  vars(made).update(FORMS=("policy",), **parts)
  return made


_MODULE = _module(Policy=_Options)


@mock.patch.object(contract, "load", lambda slug: _MODULE)
class NamesTest(parameterized.TestCase):
  def test_options(self):
    self.assertIsNone(decoding.policy("full"))
    self.assertEqual(decoding.policy("halo"), _Options())
    text = "halo:keys=7,layers=0+2,share=0.25,strict=true,kind=max"
    self.assertEqual(decoding.policy(text), _Options(7, (0, 2), 0.25, True, "max"))

  @parameterized.parameters(
    ("halo:key=7", "option of halo.*'key'.*keys"),
    ("halo:keys=x", "keys = 'x' is no int, as 4 is"),
    ("halo:strict=1", "strict = '1' is no bool"),
    ("halo:layers=0+x", "layers = '0.x' is no tuple"),
    ("hallo", "policy 'hallo'"),
  )
  def test_what_is_refused(self, text, message):
    with self.assertRaisesRegex(ValueError, message):
      decoding.policy(text)


@dataclasses.dataclass(frozen=True)
class _Two(_Options):
  pass


def _several(**modules):
  """Returns patches of the register: systems with these policies."""
  made = {slug: _module(**parts) for slug, parts in modules.items()}
  systems = mock.patch.object(contract, "systems", lambda: {s: s for s in made})
  return systems, mock.patch.object(contract, "load", made.get)


class SeveralTest(absltest.TestCase):
  def test_policies_of_a_system_have_its_name_or_their_own(self):
    one = {"POLICIES": {"pages": _Options, "tokens": _Two, "halo": _Two}}
    two = {"POLICIES": {"tokens": _Options}}
    systems, load = _several(many=one, few=two, halo={"Policy": _Options})
    with systems, load:
      self.assertEqual(decoding.policy("many.pages:keys=7"), _Options(7))
      self.assertEqual(decoding.policy("pages:keys=7"), _Options(7))
      self.assertEqual(decoding.policy("many.tokens"), _Two())
      self.assertEqual(decoding.policy("few.tokens"), _Options())
      self.assertEqual(decoding.policy("halo"), _Options())
      self.assertEqual(decoding.policy("many.halo"), _Two())
      for text in ("tokens", "many", "many.page", "page"):
        with self.assertRaisesRegex(ValueError, f"unknown policy '{text}'"):
          decoding.policy(text)
      with self.assertRaisesRegex(ValueError, "mean pages.*There are.*many.pages"):
        decoding.policy("page")
      with self.assertRaisesRegex(ValueError, "option of many.pages 'key'"):
        decoding.policy("many.pages:key=1")
      want = ("full", "many.pages", "many.tokens", "many.halo", "few.tokens", "halo")
      self.assertEqual(decoding.names(), (*want, "pages"))


class DecodingTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    build = contract.constructor("dot_product", {"heads": 2}, language.FORMS)
    self.model = language.Model([build], vocab=7, dim=8, rngs=nnx.Rngs(0))
    self.tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, 7)

  def logits(self, prompt, policy):
    run = lambda m, x: decoding.logits(m, x, prompt=prompt, policy=policy)  # noqa: E731
    return jax.jit(run)(self.model, self.tokens)

  def test_logits_are_those_of_a_call(self):
    want = self.model(self.tokens)
    np.testing.assert_allclose(self.logits(4, None), want, rtol=1e-4, atol=1e-5)
    got = self.logits(4, policies_test.Recent(keys=2))
    np.testing.assert_allclose(got[:, :4], want[:, :4], rtol=1e-4, atol=1e-5)
    self.assertGreater(jnp.abs(got[:, 4:] - want[:, 4:]).max(), 1e-4)
    with self.assertRaisesRegex(ValueError, "prompt = 0 of rows of 9"):
      decoding.logits(self.model, self.tokens, prompt=0, policy=None)

  def test_greedy_tokens(self):
    run = functools.partial(decoding.greedy, length=3, prompt=4, policy=None)
    got = jax.jit(lambda m, x: run(m, x))(self.model, self.tokens[:, :6])
    row = self.tokens[:, :6]
    for _ in range(3):
      row = jnp.concatenate([row, self.model(row)[:, -1:].argmax(-1)], axis=1)
    np.testing.assert_array_equal(got, row[:, 6:])

  def test_samples(self):
    prompt = np.arange(5) % 7
    sizes = {"length": 4, "temperature": 0.0}
    plain = generation.sample(self.model, prompt, **sizes)
    policy = policies_test.Recent(keys=9)
    got = generation.sample(self.model, prompt, policy=policy, **sizes)
    np.testing.assert_array_equal(got, plain)
    with mock.patch.object(policies_test.Recent, "fitted", side_effect=ValueError("x")):
      with self.assertRaisesRegex(errors.UserError, "x"):
        generation.sample(self.model, prompt, policy=policy, **sizes)


if __name__ == "__main__":
  absltest.main()
