"""Polarized self-attention: a gate of channels and a gate of places, each from all x.

Huajun Liu, Fuqiang Liu, Xinyi Fan, Dong Huang. Polarized Self-Attention: Towards
High-quality Pixel-wise Regression. 2021. arXiv:2107.00782. Official code:
github.com/DeLightCMU/PSA (commit 20e307a).

x (R, C, D) has L = R C places l; F = D / 2; no map to queries and values has a bias.

  channel gate   a = softmax_l(wq . x[l])                       wq: D numbers
                 z = sum_l a[l] (Wv x[l])                       F numbers
    "paper"      g = sigmoid(LN(W z))                           D numbers
    "code_p"     g = sigmoid(W z)
    "code_s"     g = sigmoid(W2 relu(LN(W1 z + b1)) + b2)       F / 4 channels inside
  spatial gate   m = mean_l(Wq' x[l]),  v[l] = Wv' x[l]         F numbers each
    "paper"      s[l] = sigmoid(sum_c softmax_c(m)[c] v[l, c])
    "code_p"     s[l] = sigmoid(softmax_l(sum_c m[c] v[l, c]))
    "code_s"     s[l] = sigmoid(sum_c m[c] softmax_l(v[:, c])[l])

  "parallel"     out = x g + x s
  "sequential"   y = x g,  out = y s, with the spatial gate of y

The three variants are the paper's equations and the authors' two modules: PSA_p, which
is parallel, and PSA_s, which is sequential and has the published weights. In "code_p" a
softmax over the places comes before the sigmoid, so that s is within 0.5 and 0.7311,
and all but constant on large maps. Places have no order: permuted, they permute the
output. With weights of 0 gates are 1/2, so that the parallel sum is x and the other
x / 4; but in "code_p", whose spatial gate is sigmoid(1 / L) then.

All is linear around the softmaxes, so that x is pooled first and projected afterwards:
z = Wv sum_l a[l] x[l], m = Wq' mean_l x[l], and sum_c m[c] v[l, c] = (Wv'^T m) . x[l].

Cost: O(L D + D^2) time; "code_s", whose softmax is of each channel, O(L D^2). Backward
keeps x and the weights alone.

Axes: B batch, R rows, C columns, F channels of queries and values, G channels inside
the gate of "code_s", D model width.

Not here: strides, with which x and the gates no longer fit; the networks with it for
poses and segmentation, HRNet and others, of which no module is in this library yet (the
authors put it after the first convolution of each residual block); masks, which images
have none of; fused kernels: but for "code_s" a layer is two weighted means of x, some
products of D x D numbers for each image and one product with x, bound by reading x
twice. Pooling by `attnjax.dot_product_attention`, with one query of D channels, takes
as long on the CPU and leaves its kernels one row of a tile to compute.
"""

from attnjax.variants.mixers.polarized.cases import CASES
from attnjax.variants.mixers.polarized.definition import (
  reference,
  reference_channel_gate,
  reference_spatial_gate,
)
from attnjax.variants.mixers.polarized.gates import (
  IMPLEMENTATIONS,
  LAYOUTS,
  VARIANTS,
  attend,
  channel_gate,
  spatial_gate,
)
from attnjax.variants.mixers.polarized.layer import FORMS, Layer
from attnjax.variants.mixers.polarized.pooled import EPSILON

__all__ = [
  "CASES",
  "EPSILON",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "LAYOUTS",
  "VARIANTS",
  "WEIGHTLESS",
  "Layer",
  "attend",
  "channel_gate",
  "reference",
  "reference_channel_gate",
  "reference_spatial_gate",
  "spatial_gate",
]
LAYER = {"dim": 12}
GROWTH = 1.0
WEIGHTLESS = True
