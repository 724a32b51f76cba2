// Each element of y of the same element of x and one number.

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint x_at, x_stride;
    uint y_at, y_stride;
    float value;
} p;

#define POINT_IS_OUTSIDE \
    (gl_GlobalInvocationID.x >= p.len || gl_WorkGroupID.y >= REAL_ROWS(p.rows))
#define POINT_FROM (p.x_at + gl_WorkGroupID.y * p.x_stride + gl_GlobalInvocationID.x)
#define POINT_TO (p.y_at + gl_WorkGroupID.y * p.y_stride + gl_GlobalInvocationID.x)
