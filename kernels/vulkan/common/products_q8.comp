// See `products_q8.glsl`.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "products_q8.glsl"
