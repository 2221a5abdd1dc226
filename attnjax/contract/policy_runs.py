"""A tiny language model, rows of it and ways to decode them, for checks of policies."""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import registry
from attnjax.contract.subject import Subject
from attnjax.core import policies

ROW, PROMPT, LAYERS = 24, 9, 3
VOCAB, HEADS, GROUPS, SIZE = 13, 4, 2, 4


@functools.cache
def parts(module: types.ModuleType) -> dict[str, types.ModuleType]:
  """Returns the policies of a system by name, each as a system of one policy."""
  if not hasattr(module, "POLICIES"):
    return {"": module}
  found = {}
  for name, kind in module.POLICIES.items():
    own = types.ModuleType(f"{module.__name__}.{name}")
    options = {part: getattr(module, part)[name] for part in ("POLICY", "COVERING")}
    vars(own).update(Policy=kind, **options)
    found[name] = own
  return found


def of_each(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
  """Returns a check of all policies of a system."""

  @functools.wraps(check)
  def every(subject: Subject) -> None:
    for name, module in parts(subject.module).items():
      try:
        check(Subject(module, subject.form))
      except Exception as error:
        error.add_note(f"the policy {name or 'Policy'} of {subject.module.__name__}")
        raise

  return every


def made(subject: Subject, options: str) -> Any:
  """Returns the policy of options that the module names so."""
  return subject.module.Policy(**getattr(subject.module, options))


def rows():
  """Returns tokens (2, ROW), and a context in which the first row has two documents."""
  tokens = np.random.default_rng(2).integers(0, VOCAB, (2, ROW))
  ids, valid = np.zeros((2, ROW), np.int32), np.ones((2, ROW), bool)
  ids[0, 11:] = 1
  valid[0, [0, 1, 5, 12, 13, 20]] = False
  valid[1, -3:] = False
  given = {"segment_ids": jnp.asarray(ids), "valid": jnp.asarray(valid)}
  return jnp.asarray(tokens, jnp.int32), given


@functools.cache
def model() -> Any:
  """Returns a tiny language model of softmax attention, its scores sharp.

  It has no positions, so that padding within a document does not move its tokens apart.
  """
  from attnjax.models import language

  options = {"heads": HEADS, "kv_heads": GROUPS, "rope_theta": 0.0}
  build = registry.constructor("dot_product", options, language.FORMS)
  sizes = {"dim": HEADS * SIZE, "depth": LAYERS, "mlp_ratio": 0.0}
  model = language.Model([build], vocab=VOCAB, **sizes, rngs=nnx.Rngs(0))
  return jax.tree.map(lambda leaf: 12 * leaf if leaf.ndim > 2 else leaf, model)


def cached(policy: Any, prompt: int | None) -> Any:
  """Returns the model's empty cache of two rows under a policy, or under None."""
  return policies.under(policy, model().init_cache(2, ROW), prompt=prompt)


def _context(tokens, context):
  every = {"segment_ids": jnp.zeros_like(tokens), "valid": jnp.ones(tokens.shape, bool)}
  return every | context


@jax.jit
def _scanned(model, cache, tokens, context):
  def one(cache, part):
    token, own = part
    logits, cache = model.step(token, cache, **own)
    return cache, logits[:, 0]

  parts = jax.tree.map(lambda y: y.T[..., None], (tokens, context))
  return jax.lax.scan(one, cache, parts)[1].swapaxes(0, 1)


@jax.jit
def step(model: Any, cache: Any, tokens: Any, context: Any) -> tuple[Any, Any]:
  """Returns the model's logits of the next tokens, and the cache after them."""
  return model.step(tokens, cache, **context)


def by_token(policy, tokens, prompt=None, **context):
  """Returns the logits of a row, decoded in a scan over its tokens."""
  given = _context(tokens, context)
  return _scanned(model(), cached(policy, prompt), tokens, given)


def by_chunk(policy, tokens, prompt, **context):
  """Returns the logits of a row, decoded in two halves."""
  cache, out, half = cached(policy, prompt), [], ROW // 2
  given = _context(tokens, context)
  for part in (slice(half), slice(half, None)):
    cut = jax.tree.map(lambda y, part=part: y[:, part], (tokens, given))
    logits, cache = step(model(), cache, *cut)
    out.append(logits)
  return jnp.concatenate(out, axis=1)


def as_prompt(policy, tokens, **context):
  """Returns the logits of a row that is one prompt."""
  return step(model(), cached(policy, None), tokens, _context(tokens, context))[0]
