// ops: linear, add, rms_norm of one row, activations in int8. See `products_q8.glsl`.
#version 460
#extension GL_GOOGLE_include_directive : require
#define NORM_BEHIND
#include "products_q8.glsl"
