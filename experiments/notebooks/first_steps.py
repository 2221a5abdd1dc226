# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # attnjax in a notebook
# Every system of the catalogue is a module that is found by its slug. Its functions
# are pure: they go inside your own `jax.jit`, `jax.grad`, `jax.vmap`,
# `jax.checkpoint`.

# %%
import jax
import jax.numpy as jnp
from flax import nnx

import attnjax

print(*attnjax.systems(), sep="\n")

# %% [markdown]
# ## Functions
# Layout as in `jax.nn.dot_product_attention`: q (B, T, N, H), k and v (B, S, K, H);
# K divides N.

# %%
q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 48, 4, 16))


def loss(q, k, v):
  out = attnjax.dot_product.attend(q, k[:, :, :2], v[:, :, :2], causal=True)
  return jnp.sum(out**2)


print(jax.jit(jax.grad(loss))(q, k, v).shape)
print(
  jax.jit(jax.vmap(jax.grad(jax.checkpoint(loss))))(*(x[None] for x in (q, k, v))).shape
)

# %% [markdown]
# ## The others
# A gate after the softmax, a decay instead of the softmax, a neighbourhood in two
# dimensions. `impl="reference"` is the definition of each.

# %%
gate = jax.random.normal(jax.random.key(1), (2, 48, 4, 1))
print(
  jax.jit(lambda *x: attnjax.gated_attention.attend(*x, causal=True))(
    q, k, v, gate
  ).shape
)

slopes = attnjax.lightning2.slopes(4, "alibi", index=0, layers=2)
print(jax.jit(attnjax.lightning2.attend)(q, k, v, slopes).shape)

image = (2, 6, 8, 4, 16)
near = jax.jit(lambda *x: attnjax.neighborhood.attend(*x, window=3))
print(near(q.reshape(image), k.reshape(image), v.reshape(image)).shape)

# %% [markdown]
# ## Layers
# A Flax NNX layer holds parameters only, so it is a pytree for plain JAX. Caches are
# arguments and results.

# %%
layer = attnjax.gated_attention.Layer(64, form="causal", heads=4, rngs=nnx.Rngs(0))
x = jax.random.normal(jax.random.key(2), (2, 12, 64))
grads = jax.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)

cache, step = (
  layer.init_cache(batch=2, length=12),
  jax.jit(lambda layer, *a: layer.step(*a)),
)
tokens = []
for t in range(12):
  y, cache = step(layer, x[:, t : t + 1], cache)
  tokens.append(y)
print(float(jnp.abs(jnp.concatenate(tokens, axis=1) - layer(x)).max()))
