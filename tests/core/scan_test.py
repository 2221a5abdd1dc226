"""Prefix softmax in plain JAX: the definition, derivatives, states, documents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.recurrence import prefix
from attnjax.core.recurrence.prefix import State
from tests.prefix_softmax import hard


def _problem(B=2, T=70, N=2, E=3, scale=1.0):
  keys = jax.random.split(jax.random.key(0), 5)
  s = scale * jax.random.normal(keys[0], (B, T, N))
  v = jax.random.normal(keys[1], (B, T, N, E))
  state = State(
    jax.random.normal(keys[2], (B, N)),
    1 + jnp.abs(jax.random.normal(keys[4], (B, N))),
    jax.random.normal(keys[3], (B, N, E)),
  )
  ids = jnp.arange(T)[None] // jnp.array([[T], [27]])[:B]
  return s, v, state, jnp.broadcast_to(ids, (B, T))


def _close(found, wanted, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


def _sum(x):
  return jnp.sin(x).sum()


def _finite(x):
  return jnp.where(jnp.isfinite(x), x, 0)


@functools.cache
def _run(form):
  """Results and gradients, jitted, by a form or the definition."""

  def loss(s, v, state, ids):
    if form == "definition":
      out, lse, last = prefix.reference(s, v, initial=state, segment_ids=ids)
    else:
      options = {"initial": state, "segment_ids": ids, "form": prefix.FORMS[form]}
      out, lse, last = prefix.prefix(s, v, **options)
    total = jnp.sin(out).sum() + jnp.cos(_finite(lse)).sum()
    total += (jnp.sin(3 * last.out)).sum() + jnp.sin(_finite(last.lse)).sum()
    return total, (out, lse, last)

  return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


class PrefixTest(parameterized.TestCase):
  @parameterized.product(form=tuple(prefix.FORMS), scale=(1.0, 30.0))
  def test_is_the_definition(self, form, scale):
    problem = _problem(scale=scale)
    tolerance = 3e-5 if scale == 1 else 1e-4  # digits that large scores have left
    _close(_run(form)(*problem), _run("definition")(*problem), tolerance)

  @parameterized.product(form=tuple(prefix.FORMS), T=(1, 5))
  def test_any_length(self, form, T):
    s, v, _, _ = _problem(T=T)
    run = jax.jit(functools.partial(prefix.prefix, form=prefix.FORMS[form]))
    out, lse, last = run(s, v)
    for t in range(T):
      weight = jax.nn.softmax(s[:, : t + 1], axis=1)
      _close(out[:, t], (weight[..., None] * v[:, : t + 1]).sum(axis=1))
    _close(lse[:, -1], jax.nn.logsumexp(s, axis=1))
    _close((last.lse, last.out), (lse[:, -1], out[:, -1]), 0)

  @parameterized.parameters(*prefix.FORMS)
  def test_tokens_that_do_not_count(self, form):
    s, v, state, ids = _problem()
    absent = (jnp.arange(70) < 30) | (jnp.arange(70) > 66)
    s = jnp.where(absent[:, None], -jnp.inf, s)
    nothing = State(jnp.full_like(state.top, -jnp.inf), state.total, state.out)
    (_, (out, lse, _)), gradients = _run(form)(s, v, nothing, ids)
    nothing = State.empty(state.out.shape)
    (_, (want, want_lse, _)), _ = _run("definition")(s, v, nothing, ids)
    _close((out, lse), (want, want_lse))
    self.assertTrue((out[:, :27] == 0).all() and (lse[:, :27] == -jnp.inf).all())
    for gradient in jax.tree.leaves(gradients):
      self.assertTrue(jnp.isfinite(gradient).all())
    _close(gradients[0][:, :30], jnp.zeros((2, 30, 2)), 0)
    _close(gradients[2], jax.tree.map(jnp.zeros_like, state), 0)

  @parameterized.parameters(*prefix.FORMS)
  def test_scores_of_any_size(self, form):
    hard.check(functools.partial(prefix.prefix, form=prefix.FORMS[form]), 70)

  def test_definition_of_scores_of_any_size(self):
    hard.check(prefix.reference, 20)

  @parameterized.parameters(*prefix.FORMS)
  def test_decodes_scores_of_any_size(self, form):
    (s, v), _, _ = hard.problem(30)
    out, _, last = jax.jit(functools.partial(prefix.prefix, form=prefix.FORMS[form]))(
      s, v
    )
    state, step = State.empty((len(s), 1, v.shape[3])), jax.jit(prefix.step)
    for t in range(30):
      state = step(s[:, t], v[:, t], state)
      _close(state.out, out[:, t], 1e-5)
    _close(state, last)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    s, v, state = jnp.zeros((B, T, 2)), jnp.zeros((B, T, 2, 3)), State.empty((B, 2, 3))
    for form in prefix.FORMS.values():
      out, lse, last = prefix.prefix(s, v, form=form, initial=state)
      self.assertEqual((out.shape, lse.shape), (v.shape, s.shape))
      _close(last, state, 0)

  @parameterized.parameters(*prefix.FORMS)
  def test_derivatives_of_any_order(self, form):
    s, v, state, ids = _problem(B=1, T=3, N=1)
    direction = jax.tree.map(jnp.cos, (s, v, state))

    def results(function):
      def run(x):
        out, lse = function(*x)
        return jnp.sin(out).sum() + jnp.sin(lse).sum()

      along = jax.jvp(run, ((s, v, state),), (direction,))[1]
      second = jax.jvp(jax.grad(run), ((s, v, state),), (direction,))[1]
      gradient = jax.grad(lambda x: sum(map(_sum, jax.tree.leaves(jax.grad(run)(x)))))
      return along, second, gradient((s, v, state))

    def definition(s, v, state):
      return prefix.reference(s, v, initial=state, segment_ids=ids)[:2]

    def own(s, v, state):
      options = {"initial": state, "segment_ids": ids, "form": prefix.FORMS[form]}
      return prefix.prefix(s, v, **options)[:2]

    found = jax.jit(lambda: results(own))()
    wanted = jax.jit(lambda: results(definition))()
    _close(found, wanted, 1e-4)

  @parameterized.parameters(*prefix.FORMS)
  def test_bfloat16_is_summed_in_float32(self, form):
    s = jnp.zeros((1, 3000, 1), "bfloat16")
    v = jnp.ones((1, 3000, 1, 1), "bfloat16").at[:, 0].set(2)
    out, lse, last = jax.jit(functools.partial(prefix.prefix, form=prefix.FORMS[form]))(
      s, v
    )
    found = out.dtype, lse.dtype, last.total.dtype, last.out.dtype
    self.assertEqual(found, ("bfloat16", "float32", "float32", "float32"))
    _close(last.out, [[[1 + 1 / 3000]]], 1e-5)

  def test_errors(self):
    s, v, state, _ = _problem()
    with self.assertRaisesRegex(ValueError, r"scores \(2, 70\) must be \(B, T, N\)"):
      prefix.check(s[..., 0], v)
    with self.assertRaisesRegex(ValueError, r"values \(2, 69, 2, 3\) must be"):
      prefix.check(s, v[:, 1:])
    with self.assertRaisesRegex(ValueError, r"initial.out \(2, 1, 3\) must be"):
      prefix.check(s, v, State(state.top, state.total, state.out[:, 1:]))
    with self.assertRaisesRegex(ValueError, r"initial.total \(2, 1\) must be"):
      prefix.check(s, v, State(state.top, state.total[:, 1:], state.out))


class StateTest(parameterized.TestCase):
  def test_combine_is_associative_and_commutative(self):
    states = [_problem(T=1)[2], State.empty((2, 2, 3)), _problem(T=3)[2]]
    a, b, c = states
    both = prefix.combine(prefix.combine(a, b), c)
    _close(prefix.combine(a, prefix.combine(b, c)), both)
    _close(prefix.combine(c, prefix.combine(b, a)), both)
    _close(prefix.combine(a, b), a, 1e-7)
    empty = prefix.combine(b, b)
    _close(empty, b, 0)
    grad = jax.grad(
      lambda x: _finite(prefix.combine(x, b).lse).sum() + prefix.combine(x, b).out.sum()
    )(b)
    for x in jax.tree.leaves(grad):
      self.assertTrue(jnp.isfinite(x).all())

  def test_step_is_prefix(self):
    s, v, state, _ = _problem(T=9)
    form = prefix.FORMS["chunked"]
    wanted, lse, last = jax.jit(functools.partial(prefix.prefix, form=form))(
      s, v, initial=state
    )
    step = jax.jit(prefix.step)
    for t in range(9):
      state = step(s[:, t], v[:, t], state)
      _close((state.lse, state.out), (lse[:, t], wanted[:, t]))
    _close(state, last)

  def test_pieces_on_an_axis_are_the_whole(self):
    s, v, _, _ = _problem(T=24)
    form = prefix.FORMS["associative"]

    def pieces(s, v):
      split = (x.reshape(2, 4, 6, *x.shape[2:]) for x in (s, v))
      run = functools.partial(prefix.across, axis="pieces", form=form)
      run = jax.vmap(run, in_axes=1, out_axes=1, axis_name="pieces")
      out, lse, last = run(*split)
      whole = (x.reshape(2, 24, *x.shape[3:]) for x in (out, lse))
      return *whole, jax.tree.map(lambda x: x[:, -1], last)

    def results(function):
      def loss(s, v):
        y = function(s, v)
        return sum(jnp.sin(x).sum() for x in jax.tree.leaves(y)), y

      return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(s, v)

    _close(results(pieces), results(functools.partial(prefix.prefix, form=form)))


if __name__ == "__main__":
  absltest.main()
