// What every shader of the tree shares: extensions, the step buffer, roundings.
//
// Specialization constant 0 is the workgroup's size, 1 the same number where an
// array needs it, 2 says that a workgroup is exactly one subgroup.

#extension GL_EXT_scalar_block_layout : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint WG = 64;
layout(constant_id = 2) const bool ONE_SUBGROUP = false;

const uint F32 = 0;
const uint F16 = 1;
const uint BF16 = 2;

// In place of a step word: the operand has one row, always.
const uint ROWS_FIXED = 0xffffffffu;

// The step buffer is `meta` in every shader; offsets are in words.
#define STEP_BUFFER(b) \
    layout(set = 0, binding = b, scalar) readonly buffer Meta { uint meta[]; };

#define REAL_ROWS(word) ((word) == ROWS_FIXED ? 1u : meta[word])
