// What both dispatches of the delta rule in chunks share: the chunk's size, and what
// the first leaves for the second, a record for each row and head.

layout(constant_id = 3) const uint DK = 64;
layout(constant_id = 4) const uint DV = 64;

// Rows of a chunk, and columns that are brought to shared memory together.
const uint CHUNK = 32;
const uint PART = 64;
const uint KEY_PARTS = (DK + PART - 1) / PART;
const uint VALUE_PARTS = (DV + PART - 1) / PART;

// A record in pieces of four numbers, zeros behind DK and DV. See `chunked.comp`.
const uint LINE = PART / 4;
const uint W_AT = 0;
const uint QUERY_AT = W_AT + KEY_PARTS * LINE;
const uint KEY_AT = QUERY_AT + KEY_PARTS * LINE;
const uint U_AT = KEY_AT + KEY_PARTS * LINE;
const uint P_AT = U_AT + VALUE_PARTS * LINE;
// log g, the key's factor to length one, Γ, and (of a chunk's first row) whether a
// state is kept behind a row inside the chunk.
const uint FACTORS_AT = P_AT + CHUNK / 4;
const uint RECORD = FACTORS_AT + 1;

// Lines in shared memory, one piece longer so that neighbours lie in different banks.
const uint PITCH = LINE + 1;
const uint SQUARE = CHUNK / 4 + 1;

float dot4(vec4 a, vec4 b, float sum) {
    sum += a.x * b.x;
    sum += a.y * b.y;
    sum += a.z * b.z;
    return sum + a.w * b.w;
}
